package daemonset

import (
	"fmt"
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

// TestRollingUpdateKeepsItsLimits rolls out under random events, plans made from stale
// caches, and crashes between actions, with nodes that come and go: never are more
// available pods taken than maxUnavailable allows, nor more pods made beside others than
// maxSurge; and left alone, every node has one pod of the newest template.
func TestRollingUpdateKeepsItsLimits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t)
		m.settle()
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch rapid.IntRange(0, 8).Draw(t, "step") {
			case 0:
				m.set = setOf(m.set.Spec, fmt.Sprintf("log:%d", rapid.IntRange(0, 2).Draw(t, "template")))
			case 1:
				m.nodeEvent()
			case 2, 3, 4:
				m.act(rapid.IntRange(0, 4).Draw(t, "crash"), rapid.IntRange(0, 3).Draw(t, "behind"))
			default:
				m.podEvent(true)
			}
		}
		m.settle()
	})
}

// TestUpdatesLeaveEnoughNodesServed: where pods fail by no other cause, never do more nodes
// lack one than maxUnavailable, nor have more nodes two than maxSurge, however far behind the
// cache is and wherever the controller crashes. Only that a pod has come up is seen at once:
// an old one that has not is taken without waiting, as upstream.
func TestUpdatesLeaveEnoughNodesServed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t)
		m.seesWhatIsUp = true
		m.settle()
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 7).Draw(t, "step") {
			case 0:
				m.set = setOf(m.set.Spec, fmt.Sprintf("log:%d", rapid.IntRange(0, 2).Draw(t, "template")))
			case 1, 2, 3:
				m.act(rapid.IntRange(0, 4).Draw(t, "crash"), rapid.IntRange(0, 3).Draw(t, "behind"))
			default:
				m.podEvent(false)
			}
			served, doubled := m.served(m.pods)
			if without := len(m.nodes) - served; without > m.unavailable {
				t.Fatalf("%d nodes have no pod that is up, maxUnavailable is %d", without, m.unavailable)
			}
			if doubled > m.surge {
				t.Fatalf("%d nodes have two pods, maxSurge is %d", doubled, m.surge)
			}
		}
		m.settle()
	})
}

// model is an API with one DaemonSet. Pods come up, fail and go in any order.
type model struct {
	t                  *rapid.T
	set                *appsv1.DaemonSet
	nodes              []*corev1.Node
	revisions          []*appsv1.ControllerRevision
	pods               map[types.UID]*corev1.Pod
	surge, unavailable int
	made, joined       int
	seesWhatIsUp       bool // in a cache that is behind otherwise
	cache              plantest.Late[types.UID, *corev1.Pod]
}

func newModel(t *rapid.T) *model {
	surge := rapid.IntRange(0, 2).Draw(t, "maxSurge")
	unavailable := 0
	if surge == 0 {
		unavailable = rapid.IntRange(1, 3).Draw(t, "maxUnavailable")
	}
	m := &model{t: t, pods: map[types.UID]*corev1.Pod{}, surge: surge, unavailable: unavailable}
	m.set = setOf(appsv1.DaemonSetSpec{UpdateStrategy: appsv1.DaemonSetUpdateStrategy{RollingUpdate: &appsv1.RollingUpdateDaemonSet{
		MaxSurge: ptr.To(intstr.FromInt32(int32(surge))), MaxUnavailable: ptr.To(intstr.FromInt32(int32(unavailable))),
	}}}, "log:0")
	for range rapid.IntRange(1, 6).Draw(t, "nodes") {
		m.join()
	}
	m.cache.Wrote(m.pods)
	return m
}

func (m *model) join() {
	m.nodes = append(slices.Clip(m.nodes), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("n%d", m.joined)}})
	m.joined++
}

// nodeEvent has a node join, or one leave with what runs on it.
func (m *model) nodeEvent() {
	if len(m.nodes) < 2 || rapid.Bool().Draw(m.t, "joins") {
		m.join()
		return
	}
	at := rapid.IntRange(0, len(m.nodes)-1).Draw(m.t, "leaves")
	gone := m.nodes[at].Name
	m.nodes = slices.Delete(slices.Clone(m.nodes), at, at+1)
	for uid, pod := range m.pods {
		if target(pod) == gone {
			delete(m.pods, uid)
		}
	}
	m.cache.Happened(m.pods)
}

func (m *model) sorted(pods map[types.UID]*corev1.Pod) []*corev1.Pod {
	var all []*corev1.Pod
	for i := range m.made + 1 {
		if pod := pods[types.UID(fmt.Sprint(i))]; pod != nil {
			all = append(all, pod)
		}
	}
	return all
}

func up(pod *corev1.Pod) bool { return pod.DeletionTimestamp == nil && len(pod.Status.Conditions) > 0 }

// served are the nodes with a pod that is up, doubled those with two pods.
func (m *model) served(pods map[types.UID]*corev1.Pod) (served, doubled int) {
	there, serving := map[string]int{}, map[string]int{}
	for _, pod := range pods {
		if pod.DeletionTimestamp == nil {
			there[target(pod)]++
		}
		if up(pod) {
			serving[target(pod)]++
		}
	}
	for _, node := range m.nodes {
		if serving[node.Name] > 0 {
			served++
		}
		if there[node.Name] > 1 {
			doubled++
		}
	}
	return served, doubled
}

// act plans from a cache that is some events behind, and does what was planned, up to a
// crash. What it does is held against what the plan was made from.
func (m *model) act(writes, behind int) (idle bool) {
	view := m.cache.Behind(behind)
	for uid := range view {
		if now := m.pods[uid]; m.seesWhatIsUp && now != nil && up(now) {
			view[uid] = now
		}
	}
	todo, err := plan(world{set: m.set, nodes: m.nodes, pods: m.sorted(view), revisions: m.revisions, now: epoch})
	if err != nil {
		m.t.Fatal(err)
	}
	crash := plantest.Crash{After: writes}
	if c := todo.revision; (c.Create || c.Raise) && crash.Write() {
		var kept []*appsv1.ControllerRevision
		for _, r := range m.revisions {
			if r.Name != c.Revision.Name {
				kept = append(kept, r)
			}
		}
		m.revisions = append(kept, c.Revision)
	}
	before, _ := m.served(view)
	wrote := false
	for _, pod := range todo.create {
		if crash.Write() {
			m.made++
			pod.UID, pod.Name = types.UID(fmt.Sprint(m.made)), fmt.Sprint(m.made)
			m.pods[pod.UID], view[pod.UID], wrote = pod, pod, true
		}
	}
	for _, r := range todo.remove {
		if !crash.Write() {
			continue
		}
		gone := r.pod.DeepCopy()
		gone.DeletionTimestamp = &metav1.Time{Time: epoch}
		view[gone.UID] = gone
		if now := m.pods[r.pod.UID]; now != nil {
			now = now.DeepCopy()
			now.DeletionTimestamp = &metav1.Time{Time: epoch}
			m.pods[now.UID], wrote = now, true
		}
	}
	after, doubled := m.served(view)
	if doubled > m.surge {
		m.t.Fatalf("%d nodes have two pods, maxSurge is %d", doubled, m.surge)
	}
	if after < before && after < len(m.nodes)-m.unavailable {
		m.t.Fatalf("%d nodes of %d are served after %d were, maxUnavailable is %d", after, len(m.nodes), before, m.unavailable)
	}
	if todo.status != nil {
		m.set = m.set.DeepCopy()
		m.set.Status = *todo.status
	}
	if wrote || crash.Came { // who starts anew lists what there is
		m.cache.Wrote(m.pods)
	}
	return len(todo.create)+len(todo.remove) == 0 && todo.status == nil && !todo.revision.Create && !todo.revision.Raise
}

// podEvent lets one pod come up, be gone for good or, if pods may fail, be down again.
func (m *model) podEvent(fails bool) {
	all := m.sorted(m.pods)
	if len(all) == 0 {
		return
	}
	pod := rapid.SampledFrom(all).Draw(m.t, "pod").DeepCopy()
	switch {
	case pod.DeletionTimestamp != nil:
		delete(m.pods, pod.UID)
		m.cache.Happened(m.pods)
		return
	case !up(pod):
		makeReady(pod)
	case fails:
		pod.Status = corev1.PodStatus{}
	}
	m.pods[pod.UID] = pod
	m.cache.Happened(m.pods)
}

func makeReady(pod *corev1.Pod) {
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(epoch)}}
}

func (m *model) settle() {
	for range 100 {
		idle := m.act(1<<20, 0)
		for _, pod := range m.sorted(m.pods) {
			if pod.DeletionTimestamp != nil {
				delete(m.pods, pod.UID)
				idle = false
				continue
			}
			idle = idle && up(pod)
			pod = pod.DeepCopy()
			makeReady(pod)
			m.pods[pod.UID] = pod
		}
		m.cache.Happened(m.pods)
		if !idle {
			continue
		}
		for _, pod := range m.pods {
			if pod.Spec.Containers[0].Image != m.set.Spec.Template.Spec.Containers[0].Image {
				m.t.Fatalf("settled with %s", pod.Spec.Containers[0].Image)
			}
		}
		if len(m.pods) != len(m.nodes) {
			m.t.Fatalf("settled with %d pods on %d nodes", len(m.pods), len(m.nodes))
		}
		return
	}
	m.t.Fatal("does not settle")
}
