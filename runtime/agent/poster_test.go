package agent

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"
)

// TestAPodOnItsWayIsToldOnce: that a pod is being made waits a moment for what comes of it; anything
// else is told at once.
func TestAPodOnItsWayIsToldOnce(t *testing.T) {
	waiting := func(reason string) corev1.PodStatus {
		return corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}}}}
	}
	making, running := waiting("ContainerCreating"), corev1.PodStatus{Phase: corev1.PodRunning}
	type told struct {
		after time.Duration
		phase corev1.PodPhase
	}
	for name, c := range map[string]struct {
		posted []corev1.PodStatus // 50 ms apart
		told   []told
	}{
		"it runs soon":       {[]corev1.PodStatus{making, running}, []told{{50 * time.Millisecond, corev1.PodRunning}}},
		"it takes longer":    {[]corev1.PodStatus{making, making, making, running}, []told{{settling, corev1.PodPending}, {150 * time.Millisecond, corev1.PodRunning}}},
		"it never runs":      {[]corev1.PodStatus{making}, []told{{settling, corev1.PodPending}}},
		"it cannot be made":  {[]corev1.PodStatus{making, waiting("ErrImagePull")}, []told{{50 * time.Millisecond, corev1.PodPending}}},
		"its end comes soon": {[]corev1.PodStatus{running, {Phase: corev1.PodFailed}}, []told{{0, corev1.PodRunning}, {50 * time.Millisecond, corev1.PodFailed}}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p", UID: "u"}}
				client := fake.NewClientset(pod)
				began, mu, got := time.Now(), sync.Mutex{}, []told(nil)
				client.PrependReactor("update", "pods", func(a ktesting.Action) (bool, runtime.Object, error) {
					mu.Lock()
					defer mu.Unlock()
					p := a.(ktesting.UpdateAction).GetObject().(*corev1.Pod)
					got = append(got, told{time.Since(began), p.Status.Phase})
					return true, p, nil
				})
				p := newPoster(&Agent{cfg: Config{Client: client}, log: slog.New(slog.DiscardHandler)}, pod)
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan struct{})
				go func() {
					defer close(done)
					p.run(ctx)
				}()
				p.seen(pod)
				for i, s := range c.posted {
					if i > 0 {
						time.Sleep(50 * time.Millisecond)
					}
					p.post(s)
				}
				time.Sleep(time.Second)
				cancel()
				<-done
				if !slices.Equal(got, c.told) {
					t.Errorf("told %v, want %v", got, c.told)
				}
			})
		})
	}
}
