package load

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// worker takes some time for each call, and the same as CPU time.
type worker struct {
	each time.Duration
	used time.Duration
}

func (w *worker) Drive(ctx context.Context, n int, length time.Duration) (Latencies, error) {
	l := Drive(ctx, n, length, func(context.Context, int, int) error { time.Sleep(w.each); return nil })
	w.used += time.Duration(l.Count) * w.each
	return l, nil
}

func (w *worker) CPU() (time.Duration, error) { return w.used, nil }

func TestContest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scores, err := Contest(t.Context(), []Contender{&worker{each: time.Millisecond}, &worker{each: 2 * time.Millisecond}}, 3, 4*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if fast, slow := scores[0], scores[1]; fast.PerSecond() != 3000 || slow.PerSecond() != 1500 || slow.P99 != 2*time.Millisecond {
			t.Errorf("scores %+v and %+v", fast, slow)
		}
		if got := scores[1].Detail("call"); got != "2.0 / 2.0 ms, CPU 2000 µs a call" {
			t.Errorf("detail %q", got)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("enough"))
		if _, err := Contest(ctx, []Contender{&worker{each: time.Millisecond}}, 1, time.Second); err == nil {
			t.Error("an interrupted contest has a score")
		}
	})
}
