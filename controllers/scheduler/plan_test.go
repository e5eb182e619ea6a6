package scheduler

import (
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"kontiki/controllers/plantest"
)

type input struct {
	Nodes      []*corev1.Node                  `json:"nodes"`
	Running    []*corev1.Pod                   `json:"running"`
	Pending    []*corev1.Pod                   `json:"pending"`
	Copies     int                             `json:"copies"` // of each pending pod
	Set        *appsv1.ReplicaSet              `json:"set"`    // default spreading goes by its selector
	Budgets    []*policyv1.PodDisruptionBudget `json:"budgets"`
	Namespaces map[string]map[string]string    `json:"namespaces"`
	Storage    stored                          `json:"storage"`
}

type placement struct {
	Pod     string `json:"pod"`
	Node    string `json:"node,omitempty"`
	Message string `json:"message,omitempty"`
	// Room is where room is made, for whom it is taken, and who else must look on.
	Room    string   `json:"room,omitempty"`
	Victims []string `json:"victims,omitempty"`
	Yield   []string `json:"yield,omitempty"`
	// Bind are claims with the volumes they get, Provision those for which one is made.
	Bind      map[string]string `json:"bind,omitempty"`
	Provision []string          `json:"provision,omitempty"`
}

// complete fills in what the API would have.
func complete(node *corev1.Node) *corev1.Node {
	if node.Labels == nil {
		node.Labels = map[string]string{}
	}
	node.Labels[corev1.LabelHostname] = node.Name
	return node
}

func (in input) snapshot(t *testing.T) (Snapshot, []*placed) {
	t.Helper()
	cache := newCache()
	for _, node := range in.Nodes {
		cache.setNode(complete(node))
	}
	for i, pod := range in.Running {
		pod.UID = types.UID(rune('a' + i))
		cache.setPod(pod)
	}
	s := Snapshot{nodes: nodesOf(cache), nominated: map[string][]*placed{}, namespace: func(ns string) labels.Set { return in.Namespaces[ns] }, volumes: in.Storage.view()}
	var pods []*placed
	for _, pod := range in.Pending {
		for i := range max(in.Copies, 1) {
			copied := pod.DeepCopy()
			copied.UID = types.UID(pod.Name + string(rune('0'+i)))
			p := place(copied)
			pods = append(pods, p)
			if node := pod.Status.NominatedNodeName; node != "" {
				s.nominated[node] = append(s.nominated[node], p)
			}
		}
	}
	for _, b := range in.Budgets {
		if ready, ok := newBudget(b); ok {
			s.budgets = append(s.budgets, ready)
		}
	}
	if in.Set != nil {
		s.selector = func(*corev1.Pod) labels.Selector {
			selector, err := metav1.LabelSelectorAsSelector(in.Set.Spec.Selector)
			if err != nil {
				t.Fatal(err)
			}
			return selector
		}
	}
	return s, pods
}

func TestPlan(t *testing.T) {
	plantest.Run(t, func(in input) []placement {
		s, pods := in.snapshot(t)
		var out []placement
		for _, d := range plan(s, profiles{Component: defaultOptions().build()}, pods) {
			bind, provision := d.volumes.tell()
			out = append(out, placement{Bind: bind, Provision: provision, Pod: d.pod.Name, Node: d.node, Message: d.message, Room: d.room.node, Victims: names(d.room.victims), Yield: names(d.room.yield)})
		}
		return out
	})
}

func names(pods []*placed) (all []string) {
	for _, p := range pods {
		all = append(all, p.pod.Name)
	}
	return all
}

// A pod that was placed here is told apart by when it began to run, once that is known.
func TestThePodThatRunsLongerStays(t *testing.T) {
	cache := newCache()
	cache.setNode(complete(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{"pods": resource.MustParse("2")}}}))
	for i, name := range []string{"old", "young"} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("z" + name)}}
		cache.assume(place(pod), "n")
		bound := pod.DeepCopy()
		bound.Spec.NodeName = "n"
		cache.setPod(bound)
		running := bound.DeepCopy()
		running.Status.StartTime = &metav1.Time{Time: time.Unix(int64(i), 0)}
		cache.setPod(running)
	}
	important := place(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", UID: "p"}, Spec: corev1.PodSpec{Priority: ptr.To[int32](5)}})
	d := plan(Snapshot{nodes: nodesOf(cache)}, profiles{Component: defaultOptions().build()}, []*placed{important})[0]
	if got := names(d.room.victims); len(got) != 1 || got[0] != "young" {
		t.Errorf("victims are %v (%s), want young", got, d.message)
	}
}

func TestNodeInfosAreReplacedNotChanged(t *testing.T) {
	cache := newCache()
	cache.setNode(complete(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}))
	before := nodesOf(cache)[0]
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", UID: "p"}}
	cache.assume(place(pod), "n")
	if len(before.pods) != 0 || len(nodesOf(cache)[0].pods) != 1 {
		t.Fatal("assuming a pod changed a snapshot, or not the cache")
	}
	cache.forget("p")
	if len(nodesOf(cache)[0].pods) != 0 {
		t.Fatal("a forgotten pod is still there")
	}
	cache.assume(place(pod), "n")
	bound := pod.DeepCopy()
	bound.Spec.NodeName = "n"
	cache.setPod(bound)
	cache.forget("p")
	if len(nodesOf(cache)[0].pods) != 1 {
		t.Fatal("a pod that was seen bound was forgotten")
	}
	cache.removeNode("n")
	if len(nodesOf(cache)) != 0 {
		t.Fatal("a removed node is in a snapshot")
	}
	cache.removePod("p")
	if len(cache.nodes) != 0 || len(cache.where) != 0 {
		t.Fatal("the cache keeps something of what is gone")
	}
}

// TestABindingBringsLabels: a pod that was assumed counts by the labels that it has since
// it was bound, its zone among them.
func TestABindingBringsLabels(t *testing.T) {
	cache := newCache()
	cache.setNode(complete(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}))
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p", UID: "p", Labels: map[string]string{"app": "web"}}}
	pod.Spec.Containers = []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("100m")}}}}
	cache.assume(place(pod), "n")
	bound := pod.DeepCopy()
	bound.Spec.NodeName = "n"
	bound.Labels[corev1.LabelTopologyZone] = "z"
	cache.setPod(bound)
	n := nodesOf(cache)[0]
	if len(n.groups) != 1 || n.groups[0].count != 1 || n.groups[0].pod.Labels[corev1.LabelTopologyZone] != "z" {
		t.Errorf("it counts as %+v", n.groups)
	}
	if want := place(bound); n.pods[0].shape != want.shape || !n.requested.equal(want.requests) {
		t.Errorf("it is of shape %s and requests %+v, want %s and %+v", n.pods[0].shape, n.requested, want.shape, want.requests)
	}
}

func nodesOf(c *nodeCache) []*nodeInfo {
	nodes, _ := c.infos()
	return nodes
}

// TestDomainsAreNumberedAnew: what is known of the nodes' labels is used again until they
// change, or a node comes or goes.
func TestDomainsAreNumberedAnew(t *testing.T) {
	zoned := func(name, zone string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelTopologyZone: zone}}}
	}
	cache := newCache()
	counted := func() int {
		nodes, domains := cache.infos()
		p := newPlanner(Snapshot{nodes: nodes, domains: domains})
		return p.domainsOf(corev1.LabelTopologyZone).count
	}
	for _, step := range []struct {
		what   string
		change func()
		want   int
	}{
		{"one node", func() { cache.setNode(zoned("a", "x")) }, 1},
		{"another zone", func() { cache.setNode(zoned("b", "y")) }, 2},
		{"nothing", func() {}, 2},
		{"a node that moved", func() { cache.setNode(zoned("b", "x")) }, 1},
		{"and back", func() { cache.setNode(zoned("b", "y")) }, 2},
		{"a node that went", func() { cache.removeNode("a") }, 1},
	} {
		step.change()
		if got := counted(); got != step.want {
			t.Errorf("%s: %d zones, want %d", step.what, got, step.want)
		}
	}
	_, known := cache.infos()
	cache.setNode(zoned("b", "y"))
	if _, now := cache.infos(); len(known) != 1 || len(now) != 1 {
		t.Errorf("a node that was seen again as it was made planning forget: %d, then %d labels are known", len(known), len(now))
	}
}
