package scheduler

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// BenchmarkPlan plans batches on 1,000 and 5,000 nodes that fill up to 30 pods each: of
// a ReplicaSet, with spreading by default; and with a spread constraint of their own.
func BenchmarkPlan(b *testing.B) {
	for _, kind := range []string{"plain", "replicaset", "spread", "antiaffinity"} {
		for _, nodes := range []int{1000, 5000} {
			b.Run(fmt.Sprintf("%s/%d", kind, nodes), func(b *testing.B) { benchPlan(b, kind, nodes) })
		}
	}
}

func benchPlan(b *testing.B, kind string, nodes int) {
	const perNode = 30
	cache := newCache()
	for i := range nodes {
		name := fmt.Sprintf("node-%d", i)
		room := corev1.ResourceList{"cpu": resource.MustParse("64"), "memory": resource.MustParse("256Gi"), "pods": resource.MustParse("110")}
		cache.setNode(&corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name, corev1.LabelTopologyZone: fmt.Sprint(i % 3)}},
			Status:     corev1.NodeStatus{Allocatable: room},
		})
	}
	pod := func(i int) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint(i), UID: types.UID(fmt.Sprint(i)), Labels: map[string]string{"app": "web"}}}
		p.Spec.Containers = []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("100m"), "memory": resource.MustParse("64Mi")}}}}
		match := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
		switch kind {
		case "spread":
			p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 5, TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: match}}
		case "antiaffinity":
			p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{
				Weight: 1, PodAffinityTerm: corev1.PodAffinityTerm{TopologyKey: corev1.LabelHostname, LabelSelector: match},
			}}}}
		}
		return p
	}
	selector := func(*corev1.Pod) labels.Selector { return nil }
	if kind == "replicaset" {
		selector = func(*corev1.Pod) labels.Selector { return labels.SelectorFromSet(labels.Set{"app": "web"}) }
	}
	s := Snapshot{selector: selector, namespace: func(string) labels.Set { return nil }}
	all := profiles{Component: defaultOptions().build()}
	next, placements := 0, 0
	began := cpuTime(b)
	b.ResetTimer()
	for b.Loop() {
		if placements >= nodes*perNode {
			b.StopTimer()
			for i := next - placements; i < next; i++ {
				cache.removePod(types.UID(fmt.Sprint(i)))
			}
			placements = 0
			b.StartTimer()
		}
		var batch []*placed
		for range maxBatch {
			batch = append(batch, place(pod(next)))
			next++
		}
		s.nodes, s.domains = cache.infos()
		for _, d := range plan(s, all, batch) {
			if d.node == "" {
				b.Fatal(d.message)
			}
			cache.assume(d.placed, d.node)
		}
		placements += maxBatch
		s.start = (s.start + maxBatch) % nodes
	}
	b.ReportMetric(float64(next)/b.Elapsed().Seconds(), "pods/s")
	b.ReportMetric(float64((cpuTime(b)-began).Microseconds())/float64(next), "cpu-µs/pod")
}

// cpuTime is what this process has had of the CPUs, which others' load does not change.
func cpuTime(b *testing.B) time.Duration {
	var use unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &use); err != nil {
		b.Fatal(err)
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}

// BenchmarkPreempt makes room on 1,000 nodes that are full with 30 pods each, for a
// batch of pods at a time.
func BenchmarkPreempt(b *testing.B) {
	cache := newCache()
	request := func(name string, cpu string, priority int32) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name), Labels: map[string]string{"app": "web"}}}
		p.Spec.Priority = &priority
		p.Spec.Containers = []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse(cpu)}}}}
		return p
	}
	for i := range 1000 {
		name := fmt.Sprintf("node-%d", i)
		room := corev1.ResourceList{"cpu": resource.MustParse("30"), "memory": resource.MustParse("256Gi"), "pods": resource.MustParse("110")}
		cache.setNode(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}}, Status: corev1.NodeStatus{Allocatable: room}})
		for j := range 30 {
			cache.assume(place(request(fmt.Sprint(i, "-", j), "1", 0)), name)
		}
	}
	all := profiles{Component: defaultOptions().build()}
	const batch = 16
	for b.Loop() {
		var pods []*placed
		for i := range batch {
			pods = append(pods, place(request(fmt.Sprint("p", i), "2", 10)))
		}
		for _, d := range plan(Snapshot{nodes: nodesOf(cache), namespace: func(string) labels.Set { return nil }}, all, pods) {
			if len(d.room.victims) != 2 {
				b.Fatalf("room at %q for %d victims: %s", d.room.node, len(d.room.victims), d.message)
			}
		}
	}
	b.ReportMetric(float64(batch*b.N)/b.Elapsed().Seconds(), "pods/s")
}
