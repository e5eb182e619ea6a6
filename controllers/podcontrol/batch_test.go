package podcontrol

import (
	"fmt"
	"testing"
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
