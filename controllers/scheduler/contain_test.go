package scheduler

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"kontiki/controllers/podview"
)

// TestAPodOutlivesAPanic: a write that panics costs its pod an attempt and no more. It would
// else count on its node, which it fills here, and be bound by nobody.
func TestAPodOutlivesAPanic(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p", UID: "p"}, Spec: corev1.PodSpec{
		SchedulerName: Component,
		Containers:    []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2")}}}},
	}}
	client := fake.NewClientset(pod, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: corev1.NodeStatus{
		Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourcePods: resource.MustParse("10")},
	}})
	var tries atomic.Int32
	bound := make(chan struct{})
	client.PrependReactor("create", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if a.GetSubresource() != "binding" {
			return false, nil, nil
		}
		if tries.Add(1) == 1 {
			panic("on purpose")
		}
		close(bound)
		return true, nil, nil
	})
	shared := informers.NewSharedInformerFactory(client, 0)
	if err := shared.Core().V1().Pods().Informer().AddIndexers(podview.Indexers()); err != nil {
		t.Fatal(err)
	}
	s := New(client, shared, silent{}, slog.New(slog.DiscardHandler), time.Now)
	ctx, cancel := context.WithCancel(t.Context())
	shared.Start(ctx.Done())
	defer shared.Shutdown()
	ended := make(chan error)
	go func() { ended <- s.Run(ctx) }()
	select {
	case <-bound:
	case <-time.After(20 * time.Second):
		t.Errorf("the pod is bound by nobody after %d tries", tries.Load())
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
