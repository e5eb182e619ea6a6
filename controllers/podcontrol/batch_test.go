package podcontrol

import (
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

func TestSlowStartStopsAtTheFirstFailedBatch(t *testing.T) {
	calls := make(chan struct{}, 100)
	done, err := SlowStart(20, func(int) error {
		calls <- struct{}{}
		if len(calls) > 3 { // in the batch of four
			return fmt.Errorf("quota")
		}
		return nil
	})
	if err == nil || len(calls) != 7 || done >= 7 {
		t.Errorf("done %d after %d calls, error %v; want an error after 1+2+4 calls", done, len(calls), err)
	}
}

// TestCallsAtOnce: however much there is to do, no more calls are under way than the API
// takes of one owner.
func TestCallsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls, made atomic.Int32
		release, ended := make(chan struct{}), make(chan error)
		go func() {
			ended <- Each(make([]int, 3*maxCalls), func(int) error {
				calls.Add(1)
				<-release
				calls.Add(-1)
				made.Add(1)
				return nil
			})
		}()
		synctest.Wait()
		if n := calls.Load(); n != maxCalls {
			t.Errorf("%d calls at once, want %d", n, maxCalls)
		}
		close(release)
		if err := <-ended; err != nil || made.Load() != 3*maxCalls {
			t.Errorf("%d calls made, %v", made.Load(), err)
		}
	})
}
