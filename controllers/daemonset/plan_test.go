package daemonset

import (
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	"kontiki/controllers/history"
	"kontiki/controllers/plantest"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

type podInput struct {
	Node  string `json:"node"`
	Image string `json:"image"`
	State string `json:"state"` // ready (the default), starting, failed, leaving
	Bound bool   `json:"bound"`
}

type input struct {
	Spec      appsv1.DaemonSetSpec `json:"spec"`
	Image     string               `json:"image"`
	Nodes     []corev1.Node        `json:"nodes"`
	Revisions []string             `json:"revisions"`
	Pods      []podInput           `json:"pods"`
}

type output struct {
	Revision string   `json:"revision,omitempty"`
	Create   []string `json:"create,omitempty"` // nodes
	Remove   []string `json:"remove,omitempty"` // node and image
	Counts   string   `json:"counts,omitempty"`
}

func template(spec corev1.PodSpec, image string) corev1.PodTemplateSpec {
	t := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "log"}}, Spec: *spec.DeepCopy()}
	t.Spec.Containers = []corev1.Container{{Name: "c", Image: image}}
	return t
}

func setOf(spec appsv1.DaemonSetSpec, image string) *appsv1.DaemonSet {
	set := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "log", UID: "set"}, Spec: spec}
	set.Spec.Template = template(spec.Template.Spec, image)
	return set
}

func revision(set *appsv1.DaemonSet, image string, number int64) *appsv1.ControllerRevision {
	raw, err := history.Data(ptr.To(template(set.Spec.Template.Spec, image)))
	if err != nil {
		panic(err)
	}
	return history.New(set, kind, set.Spec.Template.Labels, raw, number, nil)
}

func podOn(set *appsv1.DaemonSet, node, image, state string) *corev1.Pod {
	pod := newPod(set, revision(set, image, 0).Labels[history.HashLabel], node)
	pod.Name, pod.Spec.Containers[0].Image = node+" "+image, image
	pod.UID = types.UID(pod.Name)
	switch state {
	case "":
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(epoch)}}
	case "failed":
		pod.Status.Phase = corev1.PodFailed
	case "leaving":
		pod.DeletionTimestamp = &metav1.Time{Time: epoch}
	}
	return pod
}

func TestPlan(t *testing.T) {
	plantest.Run(t, func(in input) output {
		set := setOf(in.Spec, in.Image)
		w := world{set: set, now: epoch}
		for i := range in.Nodes {
			w.nodes = append(w.nodes, &in.Nodes[i])
		}
		for i, image := range in.Revisions {
			w.revisions = append(w.revisions, revision(set, image, int64(i+1)))
		}
		for _, p := range in.Pods {
			pod := podOn(set, p.Node, p.Image, p.State)
			if p.Bound {
				pod.Spec.NodeName = p.Node
			}
			w.pods = append(w.pods, pod)
		}
		todo, err := plan(w)
		if err != nil {
			t.Fatal(err)
		}
		var out output
		for _, pod := range todo.create {
			out.Create = append(out.Create, target(pod))
		}
		for _, r := range todo.remove {
			out.Remove = append(out.Remove, r.pod.Name)
		}
		if todo.revision.Create {
			out.Revision = fmt.Sprintf("create %d", todo.revision.Revision.Revision)
		}
		if s := todo.status; s != nil {
			out.Counts = fmt.Sprintf("desired %d current %d misscheduled %d ready %d updated %d available %d unavailable %d", s.DesiredNumberScheduled,
				s.CurrentNumberScheduled, s.NumberMisscheduled, s.NumberReady, s.UpdatedNumberScheduled, s.NumberAvailable, s.NumberUnavailable)
		}
		return out
	})
}

// TestRollingUpdateKeepsItsLimits rolls out under random events and crashes, with
// nodes that come and go: never are more available pods taken than maxUnavailable
// allows, nor more pods made beside others than maxSurge; and left alone, every node
// has one pod of the newest template.
func TestRollingUpdateKeepsItsLimits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		surge := rapid.IntRange(0, 2).Draw(t, "maxSurge")
		unavailable := 0
		if surge == 0 {
			unavailable = rapid.IntRange(1, 3).Draw(t, "maxUnavailable")
		}
		m := &model{t: t, pods: map[types.UID]*corev1.Pod{}, surge: surge, unavailable: unavailable}
		m.set = setOf(appsv1.DaemonSetSpec{UpdateStrategy: appsv1.DaemonSetUpdateStrategy{RollingUpdate: &appsv1.RollingUpdateDaemonSet{
			MaxSurge: ptr.To(intstr.FromInt32(int32(surge))), MaxUnavailable: ptr.To(intstr.FromInt32(int32(unavailable))),
		}}}, "log:0")
		for i := range rapid.IntRange(1, 6).Draw(t, "nodes") {
			m.nodes = append(m.nodes, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("n%d", i)}})
		}
		m.settle()
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch rapid.IntRange(0, 7).Draw(t, "step") {
			case 0:
				m.set = setOf(m.set.Spec, fmt.Sprintf("log:%d", rapid.IntRange(0, 2).Draw(t, "template")))
			case 1, 2, 3:
				m.act(rapid.IntRange(0, 4).Draw(t, "crash"))
			default:
				m.podEvent()
			}
		}
		m.settle()
	})
}

type model struct {
	t                  *rapid.T
	set                *appsv1.DaemonSet
	nodes              []*corev1.Node
	revisions          []*appsv1.ControllerRevision
	pods               map[types.UID]*corev1.Pod
	surge, unavailable int
	made               int
}

func (m *model) sorted() []*corev1.Pod {
	var all []*corev1.Pod
	for i := range m.made + 1 {
		if pod := m.pods[types.UID(fmt.Sprint(i))]; pod != nil {
			all = append(all, pod)
		}
	}
	return all
}

func up(pod *corev1.Pod) bool { return pod.DeletionTimestamp == nil && len(pod.Status.Conditions) > 0 }

// served are the nodes with a pod that is up, doubled those with two pods.
func (m *model) served() (served, doubled int) {
	here, any := map[string]int{}, map[string]int{}
	for _, pod := range m.pods {
		if pod.DeletionTimestamp == nil {
			any[target(pod)]++
		}
		if up(pod) {
			here[target(pod)]++
		}
	}
	for _, n := range any {
		if n > 1 {
			doubled++
		}
	}
	return len(here), doubled
}

func (m *model) act(crash int) (idle bool) {
	todo, err := plan(world{set: m.set, nodes: m.nodes, pods: m.sorted(), revisions: m.revisions, now: epoch})
	if err != nil {
		m.t.Fatal(err)
	}
	step := func() bool { crash--; return crash >= 0 }
	if c := todo.revision; (c.Create || c.Raise) && step() {
		var kept []*appsv1.ControllerRevision
		for _, r := range m.revisions {
			if r.Name != c.Revision.Name {
				kept = append(kept, r)
			}
		}
		m.revisions = append(kept, c.Revision)
	}
	before, _ := m.served()
	for _, pod := range todo.create {
		if step() {
			m.made++
			pod.UID, pod.Name = types.UID(fmt.Sprint(m.made)), fmt.Sprint(m.made)
			m.pods[pod.UID] = pod
		}
	}
	for _, r := range todo.remove {
		if step() {
			gone := m.pods[r.pod.UID].DeepCopy()
			gone.DeletionTimestamp = &metav1.Time{Time: epoch}
			m.pods[gone.UID] = gone
		}
	}
	after, doubled := m.served()
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
	return len(todo.create)+len(todo.remove) == 0 && todo.status == nil && !todo.revision.Create && !todo.revision.Raise
}

func (m *model) podEvent() {
	all := m.sorted()
	if len(all) == 0 {
		return
	}
	pod := rapid.SampledFrom(all).Draw(m.t, "pod").DeepCopy()
	switch {
	case pod.DeletionTimestamp != nil:
		delete(m.pods, pod.UID)
		return
	case up(pod):
		pod.Status = corev1.PodStatus{}
	default:
		makeReady(pod)
	}
	m.pods[pod.UID] = pod
}

func makeReady(pod *corev1.Pod) {
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(epoch)}}
}

func (m *model) settle() {
	for range 100 {
		idle := m.act(1 << 20)
		for _, pod := range m.sorted() {
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
