package loop

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	cachetesting "k8s.io/client-go/tools/cache/testing"
)

func silent() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func TestFailedKeysComeBackAndPanicsEndTheLoop(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	synctest.Test(t, func(t *testing.T) {
		l := New("test", silent())
		l.Add("a")
		tries := 0
		err := l.Run(t.Context(), 2, func(_ context.Context, key string) error {
			if tries++; tries < 3 {
				return errors.New("not yet")
			}
			panic("enough of " + key)
		})
		if tries != 3 || err == nil || !strings.Contains(err.Error(), "enough of a") {
			t.Errorf("%d tries, error %v", tries, err)
		}
	})
}

func TestRunWaitsForWorkers(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		l := New("test", silent())
		l.Add("a")
		finished := false
		err := l.Run(ctx, 1, func(ctx context.Context, _ string) error {
			cancel()
			<-ctx.Done()
			finished = true
			return ctx.Err()
		})
		if err != nil || !finished {
			t.Errorf("Run returned %v, worker finished: %v", err, finished)
		}
	})
}

// TestReplacedObjects: an object that was deleted and made again unseen is told as the
// two that they are.
func TestReplacedObjects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := cachetesting.NewFakeControllerSource()
		informer := cache.NewSharedIndexInformer(source, &corev1.Pod{}, 0, cache.Indexers{})
		ctx, cancel := context.WithCancel(t.Context())
		l := New("test", silent())
		var told []string
		if err := On(l, informer, func(before, after *corev1.Pod) {
			uid := func(p *corev1.Pod) string {
				if p == nil {
					return "-"
				}
				return string(p.UID)
			}
			told = append(told, uid(before)+" "+uid(after))
		}); err != nil {
			t.Fatal(err)
		}
		var running sync.WaitGroup
		running.Go(func() { informer.RunWithContext(ctx) })
		pod := func(uid types.UID) *corev1.Pod {
			return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p", UID: uid}}
		}
		source.Add(pod("a"))
		synctest.Wait()
		source.Modify(pod("a"))
		source.Modify(pod("b"))
		source.Delete(pod("b"))
		synctest.Wait()
		cancel()
		running.Wait()
		source.Shutdown()
		if err := l.Run(ctx, 1, nil); err != nil { // ends the queue
			t.Error(err)
		}
		if want := []string{"- a", "a a", "a -", "- b", "b -"}; !slices.Equal(told, want) {
			t.Errorf("told of %q, want %q", told, want)
		}
	})
}
