package statefulset

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	"kontiki/controllers/plantest"
)

// TestOrderAndAvailabilityHold runs sets through random events, plans made from stale
// caches, and crashes between actions. An ordered set makes a pod only when all before it
// are up; no update takes down more pods that are up than maxUnavailable has left; nothing
// below the partition changes; and left alone it arrives.
func TestOrderAndAvailabilityHold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t)
		m.settle()
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch rapid.IntRange(0, 8).Draw(t, "step") {
			case 0:
				m.newTemplate()
			case 1:
				m.set.Spec.Replicas = ptr.To(rapid.Int32Range(0, 5).Draw(t, "scale"))
			case 2, 3, 4:
				m.act(rapid.IntRange(0, 4).Draw(t, "crash"), rapid.IntRange(0, 3).Draw(t, "behind"))
			default:
				m.podEvent(true)
			}
		}
		m.settle()
	})
}

// TestUpdatesLeaveEnoughUp: where pods fail by no other cause, never are more of them down
// than maxUnavailable, however far behind the cache is and wherever the controller crashes. Only
// that a pod has come up is seen at once: an old one that has not is taken without waiting, as upstream.
func TestUpdatesLeaveEnoughUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t)
		m.seesWhatIsUp = true
		m.settle()
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 7).Draw(t, "step") {
			case 0:
				m.newTemplate()
			case 1, 2, 3:
				m.act(rapid.IntRange(0, 4).Draw(t, "crash"), rapid.IntRange(0, 3).Draw(t, "behind"))
			default:
				m.podEvent(false)
			}
			up := 0
			for _, pod := range m.pods {
				if isUp(pod) {
					up++
				}
			}
			if down := int(*m.set.Spec.Replicas) - up; down > maxUnavailable(m.set) {
				t.Fatalf("%d pods are down, maxUnavailable is %d", down, maxUnavailable(m.set))
			}
		}
		m.settle()
	})
}

// model is an API with one StatefulSet. Pods come up, fail and go in any order.
type model struct {
	t         *rapid.T
	set       *appsv1.StatefulSet
	revisions []*appsv1.ControllerRevision
	pods      map[string]*corev1.Pod
	made      int
	cache     plantest.Late[string, *corev1.Pod]
	// seesWhatIsUp: what has come up is in the cache at once.
	seesWhatIsUp bool
}

func newModel(t *rapid.T) *model {
	m := &model{t: t, pods: map[string]*corev1.Pod{}, set: &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db", UID: "set"}}}
	spec := &m.set.Spec
	spec.Template = templateOf("db:0")
	spec.Replicas = ptr.To(rapid.Int32Range(0, 5).Draw(t, "replicas"))
	spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: rapid.Int32Range(0, 2).Draw(t, "start")}
	if rapid.Bool().Draw(t, "parallel") {
		spec.PodManagementPolicy = appsv1.ParallelPodManagement
	}
	spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{
		Partition:      ptr.To(rapid.Int32Range(0, 3).Draw(t, "partition")),
		MaxUnavailable: ptr.To(intstr.FromInt32(rapid.Int32Range(1, 3).Draw(t, "maxUnavailable"))),
	}
	m.cache.Wrote(m.pods)
	return m
}

func (m *model) newTemplate() {
	m.set.Spec.Template = templateOf(fmt.Sprintf("db:%d", rapid.IntRange(0, 2).Draw(m.t, "template")))
}

func isUp(pod *corev1.Pod) bool {
	return pod != nil && pod.DeletionTimestamp == nil && len(pod.Status.Conditions) > 0
}

// act plans from a cache that is some events behind, and does what was planned, up to a
// crash.
func (m *model) act(writes, behind int) (idle bool) {
	view := m.cache.Behind(behind)
	for name, pod := range view {
		if now := m.pods[name]; m.seesWhatIsUp && isUp(now) && now.UID == pod.UID {
			view[name] = now
		}
	}
	w := world{set: m.set.DeepCopy(), revisions: m.revisions, now: epoch, claimed: func(string) bool { return true }}
	for _, name := range slices.Sorted(maps.Keys(view)) {
		w.pods = append(w.pods, view[name])
	}
	todo, err := plan(w)
	if err != nil {
		m.t.Fatal(err)
	}
	m.check(view, todo)
	crash := plantest.Crash{After: writes}
	if c := todo.revision; (c.Create || c.Raise) && crash.Write() {
		m.revisions = slices.DeleteFunc(slices.Clone(m.revisions), func(r *appsv1.ControllerRevision) bool { return r.Name == c.Revision.Name })
		m.revisions = append(m.revisions, c.Revision)
	}
	wrote := false
	for _, pod := range todo.create {
		if !crash.Write() || m.pods[pod.Name] != nil { // the API refuses a second one of a name
			break
		}
		m.made++
		pod.UID = types.UID(fmt.Sprint(m.made))
		m.pods[pod.Name], wrote = pod, true
	}
	for _, pod := range append(todo.scaled, todo.remove...) {
		if now := m.pods[pod.Name]; now != nil && now.UID == pod.UID && crash.Write() {
			gone := now.DeepCopy()
			gone.DeletionTimestamp = &metav1.Time{Time: epoch}
			m.pods[pod.Name], wrote = gone, true
		}
	}
	for _, r := range todo.drop {
		if crash.Write() {
			m.revisions = slices.DeleteFunc(slices.Clone(m.revisions), func(have *appsv1.ControllerRevision) bool { return have.Name == r.Name })
		}
	}
	if todo.status != nil && crash.Write() {
		m.set.Status = *todo.status
	}
	if wrote || crash.Came { // who starts anew lists what there is
		m.cache.Wrote(m.pods)
	}
	return !todo.revision.Create && !todo.revision.Raise && len(todo.create)+len(todo.scaled)+len(todo.remove)+len(todo.drop) == 0 && todo.status == nil
}

// check holds a plan against the pods that it was made from.
func (m *model) check(view map[string]*corev1.Pod, todo actions) {
	at := func(slot int) *corev1.Pod { return view[fmt.Sprintf("db-%d", start(m.set)+slot)] }
	for _, pod := range todo.create {
		slot, _ := slot(m.set, pod)
		if at(slot) != nil {
			m.t.Fatalf("%s is made while there is one", pod.Name)
		}
		for before := range slot {
			if ordered(m.set) && !isUp(at(before)) {
				m.t.Fatalf("%s is made while the one at %d is not up", pod.Name, before)
			}
		}
	}
	down, taken := 0, 0
	for i := range int(*m.set.Spec.Replicas) {
		if !isUp(at(i)) {
			down++
		}
	}
	for _, pod := range todo.remove {
		if !isUp(pod) {
			continue
		}
		if slot, _ := slot(m.set, pod); slot < partition(m.set) {
			m.t.Fatalf("%s is below the partition and taken", pod.Name)
		}
		taken++
	}
	if taken > 0 && down+taken > maxUnavailable(m.set) {
		m.t.Fatalf("%d pods that are up are taken while %d are down; maxUnavailable is %d", taken, down, maxUnavailable(m.set))
	}
}

// podEvent lets one pod come up, be gone for good or, if pods may fail, end.
func (m *model) podEvent(fails bool) {
	if len(m.pods) == 0 {
		return
	}
	name := rapid.SampledFrom(slices.Sorted(maps.Keys(m.pods))).Draw(m.t, "pod")
	pod := m.pods[name].DeepCopy()
	switch {
	case pod.DeletionTimestamp != nil:
		delete(m.pods, name)
		m.cache.Happened(m.pods)
		return
	case !isUp(pod):
		makeReady(pod)
	case fails:
		pod.Status = corev1.PodStatus{Phase: corev1.PodFailed}
	}
	m.pods[name] = pod
	m.cache.Happened(m.pods)
}

func makeReady(pod *corev1.Pod) {
	if pod.Status.Phase != corev1.PodFailed {
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	}
}

func (m *model) settle() {
	for range 200 {
		idle := m.act(1<<20, 0)
		for _, name := range slices.Sorted(maps.Keys(m.pods)) {
			pod := m.pods[name].DeepCopy()
			if pod.DeletionTimestamp != nil {
				delete(m.pods, name)
				idle = false
				continue
			}
			idle = idle && isUp(pod)
			makeReady(pod)
			m.pods[name] = pod
		}
		m.cache.Happened(m.pods)
		if idle {
			if len(m.pods) != int(*m.set.Spec.Replicas) {
				m.t.Fatalf("settled with %d pods, want %d", len(m.pods), *m.set.Spec.Replicas)
			}
			return
		}
	}
	m.t.Fatalf("does not settle: %+v", m.set.Status)
}
