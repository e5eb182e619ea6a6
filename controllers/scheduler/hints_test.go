package scheduler

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TestHints: which changes bring a pod back that one plugin said no to.
func TestHints(t *testing.T) {
	node := func(change func(*corev1.Node)) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{}}}
		n.Status.Allocatable = corev1.ResourceList{"cpu": resource.MustParse("2"), "pods": resource.MustParse("10")}
		change(n)
		return n
	}
	pod := func(name string, change func(*corev1.Pod)) *placed {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name), Labels: map[string]string{"app": name}}}
		change(p)
		return place(p)
	}
	plain := func(*corev1.Pod) {}
	as := func(e event, n *corev1.Node) change {
		return change{event: e, node: n, oldNode: node(func(*corev1.Node) {})}
	}
	came := func(p *placed) change { return change{event: podAdded, pod: p} }
	went := func(p *placed) change { return change{event: podGone, pod: p} }
	taint := func(keys ...string) *corev1.Node {
		return node(func(n *corev1.Node) {
			for _, key := range keys {
				n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoSchedule})
			}
		})
	}
	labelled := func(key, value string) *corev1.Node {
		return node(func(n *corev1.Node) { n.Labels[key] = value })
	}
	ported := func(port int32) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{{HostPort: port}}}}
		}
	}
	web := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	avoids := func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{TopologyKey: "zone", LabelSelector: web}},
		}}
	}
	wants := func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{TopologyKey: "zone", LabelSelector: web}},
		}}
	}
	spreads := func(p *corev1.Pod) {
		p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{TopologyKey: "zone", MaxSkew: 1, WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: web}}
	}
	asks := func(cpu string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Containers = []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse(cpu)}}}}
		}
	}
	selects := func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} }
	filters := defaultOptions().build().filters
	for _, c := range []struct {
		plugin, what string
		pod          *placed
		change       change
		want         bool
	}{
		{"NodeUnschedulable", "uncordoned", pod("p", plain), as(nodeTaintsChanged, taint("other")), true},
		{"NodeUnschedulable", "still cordoned", pod("p", plain), as(nodeTaintsChanged, node(func(n *corev1.Node) { n.Spec.Unschedulable = true })), false},
		{"NodeUnschedulable", "a pod went", pod("p", plain), went(pod("q", plain)), false},
		{"TaintToleration", "the taint went", pod("p", plain), as(nodeTaintsChanged, taint()), true},
		{"TaintToleration", "another came", pod("p", plain), as(nodeTaintsChanged, taint("a")), false},
		{"TaintToleration", "a node came without it", pod("p", plain), as(nodeAdded, taint()), true},
		{"NodeAffinity", "the label came", pod("p", selects), as(nodeLabelsChanged, labelled("disk", "ssd")), true},
		{"NodeAffinity", "another label came", pod("p", selects), as(nodeLabelsChanged, labelled("disk", "tape")), false},
		{"NodePorts", "who had the port went", pod("p", ported(80)), went(pod("q", ported(80))), true},
		{"NodePorts", "who had another went", pod("p", ported(80)), went(pod("q", ported(81))), false},
		{"NodeResourcesFit", "a node became large enough", pod("p", asks("2")), as(nodeAllocatableChanged, node(func(*corev1.Node) {})), true},
		{"NodeResourcesFit", "a node is too small", pod("p", asks("3")), as(nodeAllocatableChanged, node(func(*corev1.Node) {})), false},
		{"NodeResourcesFit", "a node came that takes no pods", pod("p", asks("1")), as(nodeAdded, node(func(n *corev1.Node) { n.Status.Allocatable = nil })), false},
		{"NodeResourcesFit", "a pod went", pod("p", asks("1")), went(pod("q", plain)), true},
		{"PodTopologySpread", "one that counts went", pod("p", spreads), went(pod("web", plain)), true},
		{"PodTopologySpread", "one that does not", pod("p", spreads), went(pod("db", plain)), false},
		{"PodTopologySpread", "one that counted has other labels", pod("p", spreads), change{event: podLabelsChanged, pod: pod("db", plain), before: pod("web", plain).pod}, true},
		{"PodTopologySpread", "a node with the label came", pod("p", spreads), as(nodeAdded, labelled("zone", "x")), true},
		{"PodTopologySpread", "a node without it", pod("p", spreads), as(nodeAdded, labelled("rack", "x")), false},
		{"InterPodAffinity", "the one it wants came", pod("p", wants), came(pod("web", plain)), true},
		{"InterPodAffinity", "another came", pod("p", wants), came(pod("db", plain)), false},
		{"InterPodAffinity", "the one it avoids went", pod("p", avoids), went(pod("web", plain)), true},
		{"InterPodAffinity", "one that avoids it went", pod("web", plain), went(pod("q", avoids)), true},
		{"InterPodAffinity", "one that avoids others went", pod("p", plain), went(pod("q", avoids)), false},
		{"VolumeBinding", "something of volumes changed", pod("p", plain), change{event: storageChanged}, true},
		{"VolumeBinding", "a pod went", pod("p", plain), went(pod("q", plain)), false},
		{"VolumeRestrictions", "a pod went", pod("p", plain), went(pod("q", plain)), true},
	} {
		at := slices.IndexFunc(filters, func(f filterPlugin) bool { return f.name == c.plugin })
		if at < 0 {
			t.Fatalf("there is no filter %s", c.plugin)
		}
		h := help{pod: c.pod, events: filters[at].helps | nodeAdded, plugins: filters[at : at+1]}
		if got := h.by(c.change); got != c.want {
			t.Errorf("%s, %s: helps %v, want %v", c.plugin, c.what, got, c.want)
		}
	}
}
