package scheduler

import (
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"
)

// drawCluster makes a small cluster with some pods, and pods that wait; all of them
// picky in many ways.
func drawCluster(t *rapid.T) (Snapshot, []*placed) {
	cache := newCache()
	count := rapid.IntRange(1, 6).Draw(t, "nodes")
	for i := range count {
		node := complete(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("n", i), Labels: map[string]string{}}})
		if zone := rapid.SampledFrom([]string{"", "x", "y"}).Draw(t, "zone"); zone != "" {
			node.Labels["zone"] = zone
		}
		node.Spec.Unschedulable = rapid.IntRange(0, 9).Draw(t, "cordoned") == 0
		node.Status.Allocatable = corev1.ResourceList{
			"cpu": *resource.NewQuantity(int64(rapid.IntRange(1, 4).Draw(t, "cpu")), resource.DecimalSI), "memory": resource.MustParse("8Gi"),
			"pods": *resource.NewQuantity(int64(rapid.IntRange(1, 6).Draw(t, "slots")), resource.DecimalSI),
		}
		cache.setNode(node)
	}
	for i := range rapid.IntRange(0, 12).Draw(t, "running") {
		pod := drawPod(t, fmt.Sprint("r", i))
		pod.Spec.NodeName = fmt.Sprint("n", rapid.IntRange(0, count-1).Draw(t, "on"))
		cache.setPod(pod)
	}
	s := Snapshot{
		nodes: nodesOf(cache), nominated: map[string][]*placed{}, namespace: func(string) labels.Set { return nil },
		selector: func(pod *corev1.Pod) labels.Selector { return labels.SelectorFromSet(pod.Labels) },
		budgets:  []budget{{"", labels.SelectorFromSet(labels.Set{"app": "a"}), int32(rapid.IntRange(0, 1).Draw(t, "allowed")), nil}},
	}
	var pods []*placed
	for i := range rapid.IntRange(1, 8).Draw(t, "pending") {
		pod := place(drawPod(t, fmt.Sprint("p", i)))
		pods = append(pods, pod)
		if rapid.IntRange(0, 5).Draw(t, "nominated") == 0 {
			node := fmt.Sprint("n", rapid.IntRange(0, count-1).Draw(t, "to"))
			s.nominated[node] = append(s.nominated[node], pod)
		}
	}
	return s, pods
}

func drawPod(t *rapid.T, name string) *corev1.Pod {
	app := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "app")
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), Labels: map[string]string{"app": app}}}
	pod.Spec.Priority = ptr.To(int32(rapid.IntRange(0, 3).Draw(t, "priority")))
	pod.Spec.Containers = []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
		"cpu": *resource.NewMilliQuantity(int64(rapid.SampledFrom([]int{0, 500, 1000}).Draw(t, "request")), resource.DecimalSI),
	}}}}
	match := &metav1.LabelSelector{MatchLabels: map[string]string{"app": rapid.SampledFrom([]string{"a", "b"}).Draw(t, "other")}}
	key := rapid.SampledFrom([]string{"zone", corev1.LabelHostname}).Draw(t, "key")
	term := corev1.PodAffinityTerm{TopologyKey: key, LabelSelector: match}
	switch rapid.IntRange(0, 7).Draw(t, "wish") {
	case 0:
		pod.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{term}}}
	case 1:
		pod.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{term}}}
	case 2:
		pod.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{Weight: 5, PodAffinityTerm: term}}}}
	case 3, 4:
		when := rapid.SampledFrom([]corev1.UnsatisfiableConstraintAction{corev1.DoNotSchedule, corev1.ScheduleAnyway}).Draw(t, "when")
		pod.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{TopologyKey: key, MaxSkew: 1, WhenUnsatisfiable: when, LabelSelector: match}}
	case 5:
		pod.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: 80}}
	}
	return pod
}

// TestWhatIsRememberedIsWhatWouldBeFound: a batch that remembers and counts along
// decides as if each pod were planned by itself over what the ones before it left.
func TestWhatIsRememberedIsWhatWouldBeFound(t *testing.T) {
	with := profiles{Component: defaultOptions().build()}
	rapid.Check(t, func(t *rapid.T) {
		s, pods := drawCluster(t)
		batch := plan(s, with, pods)
		for i, pod := range pods {
			fresh := newPlanner(s)
			alone := fresh.decide(pod, with[Component])
			got := batch[i]
			if got.node != alone.node || got.message != alone.message || got.room.node != alone.room.node || !slices.Equal(got.room.victims, alone.room.victims) {
				t.Fatalf("pod %s: the batch says %q (%s, room %q for %v), alone it is %q (%s, room %q for %v)", pod.pod.Name,
					got.node, got.message, got.room.node, names(got.room.victims), alone.node, alone.message, alone.room.node, names(alone.room.victims))
			}
			s = fresh.Snapshot
		}
	})
}

// TestPreemptionTakesWhatItMustAndNoMore: every victim is less important; without the
// victims the pod fits; and none of them could have stayed.
func TestPreemptionTakesWhatItMustAndNoMore(t *testing.T) {
	with := profiles{Component: defaultOptions().build()}
	rapid.Check(t, func(t *rapid.T) {
		s, pods := drawCluster(t)
		pod := pods[0]
		d := newPlanner(s).decide(pod, with[Component])
		if d.room.node == "" {
			return
		}
		fits := func(spared *placed) bool {
			p := newPlanner(s)
			at, _ := p.index(d.room.node)
			for _, victim := range d.room.victims {
				if victim != spared {
					p.nodes[at] = p.nodes[at].without(victim.pod.UID)
				}
			}
			for _, other := range d.room.yield {
				p.unnominate(other)
			}
			return p.cycleOf(pod, with[Component]).verdict(pod, at) == nil
		}
		if !fits(nil) {
			t.Fatalf("%s does not fit on %s without %v", pod.pod.Name, d.room.node, names(d.room.victims))
		}
		for _, victim := range d.room.victims {
			if victim.priority >= pod.priority {
				t.Fatalf("victim %s is as important as %s", victim.pod.Name, pod.pod.Name)
			}
		}
		if n := len(d.room.victims); n > 0 && fits(d.room.victims[n-1]) {
			t.Fatalf("victim %s could have stayed", d.room.victims[n-1].pod.Name)
		}
	})
}
