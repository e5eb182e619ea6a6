package eventseries

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	typedeventsv1 "k8s.io/client-go/kubernetes/typed/events/v1"
	"k8s.io/client-go/tools/events"
)

// store holds events, and counts.
type store struct {
	typedeventsv1.EventsV1Interface
	typedeventsv1.EventInterface

	gate chan struct{} // nil, or what writes wait for

	mu                        sync.Mutex // protects what follows
	held                      map[string]*eventsv1.Event
	creates, patches          int
	atOnce, most              int
	refuse                    error
	alreadyThere, patchedGone int
}

func (s *store) Events(string) typedeventsv1.EventInterface { return s }

func (s *store) begin() {
	s.mu.Lock()
	s.atOnce++
	s.most = max(s.most, s.atOnce)
	gate := s.gate
	s.mu.Unlock()
	if gate != nil {
		<-gate
	}
	s.mu.Lock()
	s.atOnce--
}

func (s *store) Create(_ context.Context, e *eventsv1.Event, _ metav1.CreateOptions) (*eventsv1.Event, error) {
	s.begin()
	defer s.mu.Unlock()
	s.creates++
	if s.refuse != nil {
		return nil, s.refuse
	}
	if s.held[e.Name] != nil {
		s.alreadyThere++
		return nil, apierrors.NewAlreadyExists(eventsv1.Resource("events"), e.Name)
	}
	if s.held == nil {
		s.held = map[string]*eventsv1.Event{}
	}
	s.held[e.Name] = e
	return e, nil
}

func (s *store) Patch(_ context.Context, name string, _ types.PatchType, data []byte, _ metav1.PatchOptions, _ ...string) (*eventsv1.Event, error) {
	s.begin()
	defer s.mu.Unlock()
	s.patches++
	if s.held[name] == nil {
		s.patchedGone++
		return nil, apierrors.NewNotFound(eventsv1.Resource("events"), name)
	}
	changed := s.held[name].DeepCopy()
	if err := json.Unmarshal(data, changed); err != nil {
		return nil, err
	}
	s.held[name] = changed
	return changed, nil
}

// counts are how often each event is said to have happened, by what it is about.
func (s *store) counts() map[string]int32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	counts := map[string]int32{}
	for _, e := range s.held {
		n := int32(1)
		if e.Series != nil {
			n = e.Series.Count
		}
		counts[e.Regarding.Name] += n
	}
	return counts
}

func (s *store) writes() (creates, patches int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.creates, s.patches
}

// recording runs do with a recorder, in a bubble.
func recording(t *testing.T, do func(t *testing.T, s *store, r *Recorder, e events.EventRecorder)) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{}
		r := New(s, slog.New(slog.DiscardHandler), time.Now)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); r.Run(ctx) }()
		do(t, s, r, r.As("default-scheduler"))
		cancel()
		<-done
	})
}

func pod(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name), ResourceVersion: "1"}}
}

func failed(e events.EventRecorder, p *corev1.Pod) {
	e.Eventf(p, nil, corev1.EventTypeWarning, "FailedScheduling", "Scheduling", "%d nodes", 0)
}

func TestAnEventIsToldAsUpstreamTellsIt(t *testing.T) {
	recording(t, func(t *testing.T, s *store, _ *Recorder, e events.EventRecorder) {
		e.Eventf(pod("victim"), pod("other"), corev1.EventTypeNormal, "Preempted", "Preempting", "Preempted by pod %s on node %s", "other", "n")
		synctest.Wait()
		for name, got := range s.held {
			if got.Name != name || got.Namespace != "default" || got.EventTime.IsZero() || got.ReportingController != "default-scheduler" || got.ReportingInstance == "" ||
				got.Action != "Preempting" || got.Reason != "Preempted" || got.Note != "Preempted by pod other on node n" || got.Type != "Normal" || got.Series != nil ||
				got.Regarding != (corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: "default", Name: "victim", UID: "victim", ResourceVersion: "1"}) ||
				got.Related == nil || got.Related.Name != "other" {
				t.Errorf("event %+v", got)
			}
		}
		if len(s.held) != 1 {
			t.Errorf("%d events, want 1", len(s.held))
		}
	})
}

// TestTheSameEventIsASeries: it is written once, at the second time, and when it is over;
// then the next one is one of its own.
func TestTheSameEventIsASeries(t *testing.T) {
	recording(t, func(t *testing.T, s *store, _ *Recorder, e events.EventRecorder) {
		for range 100 {
			failed(e, pod("big"))
			synctest.Wait()
		}
		failed(e, pod("other"))
		synctest.Wait()
		if creates, patches := s.writes(); creates != 2 || patches != 1 {
			t.Errorf("%d creates and %d patches while it goes on, want 2 and 1", creates, patches)
		}
		time.Sleep(finishTime + 2*sweepEvery)
		if counts := s.counts(); counts["big"] != 100 || counts["other"] != 1 {
			t.Errorf("counted %v, want 100 and 1", counts)
		}
		time.Sleep(finishTime)
		failed(e, pod("big"))
		synctest.Wait()
		if creates, patches := s.writes(); creates != 3 || patches != 2 {
			t.Errorf("%d creates and %d patches in all, want 3 and 2", creates, patches)
		}
	})
}

func TestASeriesThatGoesOnIsWrittenAtTimes(t *testing.T) {
	recording(t, func(t *testing.T, s *store, _ *Recorder, e events.EventRecorder) {
		for range 61 {
			failed(e, pod("big"))
			time.Sleep(time.Minute)
		}
		if creates, patches := s.writes(); creates != 1 || patches < 2 || patches > 3 {
			t.Errorf("%d creates and %d patches in an hour, want 1 and at most 3", creates, patches)
		}
	})
}

// TestABurstIsBounded: in what is remembered and in what is written at once; what is told
// again while it waits takes no more room.
func TestABurstIsBounded(t *testing.T) {
	recording(t, func(t *testing.T, s *store, r *Recorder, e events.EventRecorder) {
		s.gate = make(chan struct{})
		for i := range 3 * remembered {
			failed(e, pod(fmt.Sprint("p-", i)))
			failed(e, pod("big"))
		}
		synctest.Wait()
		r.mu.Lock()
		known, dropped := len(r.book.all), r.dropped
		r.mu.Unlock()
		if known != remembered || dropped == 0 {
			t.Errorf("%d events are remembered and %d were dropped, want %d and some", known, dropped, remembered)
		}
		close(s.gate)
		synctest.Wait()
		if s.most != writers {
			t.Errorf("%d writes at once, want %d", s.most, writers)
		}
		if counts := s.counts(); len(counts) != remembered || counts["big"] < 2 || s.alreadyThere > 0 {
			t.Errorf("%d events are written, %d of them counted twice; big %d times; want %d", len(counts), s.alreadyThere, counts["big"], remembered)
		}
		// Then there is room again, of those of longest ago.
		failed(e, pod("late"))
		synctest.Wait()
		if s.counts()["late"] != 1 {
			t.Error("no event after the burst")
		}
		time.Sleep(2 * finishTime)
		synctest.Wait()
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.book.all) != 0 || r.book.order.Len() != 0 || r.book.due.Len() != 0 {
			t.Errorf("%d events are remembered for ever", len(r.book.all))
		}
	})
}

func TestAStoreThatDoesNotAnswerIsAskedAgain(t *testing.T) {
	recording(t, func(t *testing.T, s *store, _ *Recorder, e events.EventRecorder) {
		s.refuse = apierrors.NewServiceUnavailable("no quorum")
		failed(e, pod("a"))
		synctest.Wait()
		s.mu.Lock()
		s.refuse = errors.New("connection refused")
		s.mu.Unlock()
		time.Sleep(retryPause)
		synctest.Wait()
		s.mu.Lock()
		s.refuse = nil
		s.mu.Unlock()
		time.Sleep(retryPause)
		synctest.Wait()
		if creates, _ := s.writes(); creates != 3 || s.counts()["a"] != 1 {
			t.Errorf("%d tries, %v", creates, s.counts())
		}
		s.mu.Lock()
		s.refuse = apierrors.NewForbidden(eventsv1.Resource("events"), "", errors.New("the namespace goes"))
		s.mu.Unlock()
		failed(e, pod("b"))
		time.Sleep(tries * retryPause)
		synctest.Wait()
		if creates, _ := s.writes(); creates != 4 {
			t.Errorf("what was refused was tried %d times", creates-3)
		}
	})
}

// TestAnEventThatExpiredIsMadeAgain, with the count of its series.
func TestAnEventThatExpiredIsMadeAgain(t *testing.T) {
	recording(t, func(t *testing.T, s *store, _ *Recorder, e events.EventRecorder) {
		failed(e, pod("a"))
		synctest.Wait()
		s.mu.Lock()
		clear(s.held)
		s.mu.Unlock()
		failed(e, pod("a"))
		synctest.Wait()
		if s.counts()["a"] != 2 || s.patchedGone != 1 {
			t.Errorf("counted %v after %d patches of nothing", s.counts(), s.patchedGone)
		}
	})
}

// TestWhatIsToldWhileItIsWritten is written afterwards.
func TestWhatIsToldWhileItIsWritten(t *testing.T) {
	recording(t, func(t *testing.T, s *store, _ *Recorder, e events.EventRecorder) {
		s.gate = make(chan struct{})
		failed(e, pod("a"))
		synctest.Wait()
		failed(e, pod("a"))
		synctest.Wait()
		close(s.gate)
		synctest.Wait()
		if creates, patches := s.writes(); creates != 1 || patches != 1 || s.counts()["a"] != 2 {
			t.Errorf("%d creates and %d patches, counted %v", creates, patches, s.counts())
		}
	})
}
