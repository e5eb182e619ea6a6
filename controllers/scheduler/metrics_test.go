package scheduler

import (
	"context"
	"log/slog"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"kontiki/controllers/podview"
	"kontiki/internal/meter/metertest"
)

func TestMetrics(t *testing.T) {
	pod := func(name, cpu string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)}, Spec: corev1.PodSpec{
			SchedulerName: Component,
			Containers:    []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}}}},
		}}
	}
	small, large, gated := pod("small", "1"), pod("large", "100"), pod("gated", "1")
	gated.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.com/later"}}
	client := fake.NewClientset(small, large, gated, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: corev1.NodeStatus{
		Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourcePods: resource.MustParse("10")},
	}})
	shared := informers.NewSharedInformerFactory(client, 0)
	if err := shared.Core().V1().Pods().Informer().AddIndexers(podview.Indexers()); err != nil {
		t.Fatal(err)
	}
	m := NewMetrics()
	s := New(client, shared, silent{}, slog.New(slog.DiscardHandler), time.Now).Measured(m)
	ctx, cancel := context.WithCancel(t.Context())
	shared.Start(ctx.Done())
	defer shared.Shutdown()
	ended := make(chan error)
	go func() { ended <- s.Run(ctx) }()
	const scheduled, unschedulable = `scheduler_schedule_attempts_total{profile="default-scheduler",result="scheduled"}`, `scheduler_schedule_attempts_total{profile="default-scheduler",result="unschedulable"}`
	var got map[string]float64
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); <-tick.C {
		if got = metertest.Read(t, &Families, m); got[scheduled] == 1 && got[unschedulable] == 1 && got[`scheduler_pending_pods{queue="unschedulable"}`] == 1 && got[`scheduler_pending_pods{queue="gated"}`] == 1 {
			break
		}
	}
	for name, want := range map[string]float64{
		scheduled: 1, unschedulable: 1, `scheduler_pending_pods{queue="unschedulable"}`: 1, `scheduler_pending_pods{queue="backoff"}`: 0,
		`scheduler_pending_pods{queue="gated"}`:                                                         1,
		`scheduler_scheduling_attempt_duration_seconds{profile="default-scheduler",result="scheduled"}`: 1,
		"scheduler_scheduling_algorithm_duration_seconds":                                               2,
		"scheduler_pod_scheduling_attempts":                                                             1,
		`scheduler_pod_scheduling_sli_duration_seconds{attempts="1"}`:                                   1,
		"scheduler_preemption_attempts_total":                                                           1,
		"scheduler_preemption_victims":                                                                  0,
		`scheduler_queue_incoming_pods_total{event="UnscheduledPodAdd",queue="active"}`:                 2,
		`scheduler_queue_incoming_pods_total{event="ScheduleAttemptFailure",queue="unschedulable"}`:     1,
	} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
	gated = gated.DeepCopy()
	gated.Spec.SchedulingGates = nil
	if _, err := client.CoreV1().Pods("default").Update(ctx, gated, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); <-tick.C {
		if got = metertest.Read(t, &Families, m); got[scheduled] == 2 {
			break
		}
	}
	if got[scheduled] != 2 || got[`scheduler_pending_pods{queue="gated"}`] != 0 {
		t.Errorf("without its gate: %v scheduled, %v gated", got[scheduled], got[`scheduler_pending_pods{queue="gated"}`])
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if got := metertest.Read(t, &Families, m); got[scheduled] != 2 || got[`scheduler_pending_pods{queue="unschedulable"}`] != 0 {
		t.Errorf("after the leadership: %v attempts, %v pending", got[scheduled], got[`scheduler_pending_pods{queue="unschedulable"}`])
	}
}

// TestAttemptsAreFewLabels: by upstream's names, so that what selects its last one finds it.
func TestAttemptsAreFewLabels(t *testing.T) {
	for n, want := range map[int]string{1: "1", 14: "14", 15: "15+", 40: "15+"} {
		if got := attemptsLabel(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}
