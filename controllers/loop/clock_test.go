package loop

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"k8s.io/component-base/metrics/legacyregistry"
	_ "k8s.io/component-base/metrics/prometheus/workqueue" // the provider, as in a node
)

// queueMetrics reads what the queue of that name tells.
func queueMetrics(t *testing.T, name string) map[string]float64 {
	t.Helper()
	families, err := legacyregistry.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "name" && l.GetValue() == name {
					out[f.GetName()] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
				}
			}
		}
	}
	return out
}

// TestQueueMetrics: they are upstream's; what is unfinished is told while there is some, and
// what a loop leaves undone is not counted for ever.
func TestQueueMetrics(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	synctest.Test(t, func(t *testing.T) {
		const name = "test-metrics"
		ctx, cancel := context.WithCancel(t.Context())
		l := New(name, silent())
		l.Add("a")
		tries, long := 0, make(chan struct{})
		ended := make(chan error)
		go func() {
			ended <- l.Run(ctx, 1, func(context.Context, string) error {
				if tries++; tries == 1 {
					return errors.New("not yet")
				}
				<-long
				return nil
			})
		}()
		time.Sleep(10*time.Second + time.Millisecond)
		l.Add("b")
		l.Add("c")
		synctest.Wait()
		got := queueMetrics(t, name)
		if s := got["workqueue_unfinished_work_seconds"]; s < 9 || s > 10 {
			t.Errorf("unfinished for %v s, want the last half second of 10", s)
		}
		for metric, want := range map[string]float64{"workqueue_depth": 2, "workqueue_adds_total": 4, "workqueue_retries_total": 1, "workqueue_work_duration_seconds": 1, "workqueue_queue_duration_seconds": 2} {
			if got[metric] != want {
				t.Errorf("%s is %v, want %v", metric, got[metric], want)
			}
		}
		cancel()
		close(long)
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if got := queueMetrics(t, name); got["workqueue_depth"] != 0 {
			t.Errorf("after the end the depth is %v", got["workqueue_depth"])
		}
	})
}

// TestIdleClock: nothing ticks while nobody works.
func TestIdleClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newBusyClock()
		ticker := c.NewTicker(unfinishedPace)
		ticks := func(during time.Duration) (n int) {
			end := time.After(during)
			for {
				select {
				case <-ticker.C():
					n++
				case <-end:
					return n
				}
			}
		}
		if n := ticks(time.Hour); n != 0 {
			t.Errorf("%d ticks in an idle hour", n)
		}
		c.begin()
		c.begin()
		c.end()
		if n := ticks(unfinishedPace*4 + 1); n != 4 {
			t.Errorf("%d ticks in two seconds of work", n)
		}
		c.end()
		if n := ticks(time.Hour); n != 1 {
			t.Errorf("%d ticks after the work, want one that tells its end", n)
		}
		c.begin()
		c.end()
		if n := ticks(time.Hour); n != 0 {
			t.Errorf("%d ticks after work that was short", n)
		}
	})
}
