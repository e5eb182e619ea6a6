package run

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"kontiki/jepsen/nemesis"
)

// TestLostQuorumIsJudged: a cluster that does not become whole is no broken run, whatever
// becomes of the clients that wait for it.
func TestLostQuorumIsJudged(t *testing.T) {
	notWhole := fmt.Errorf("%w within 90s", nemesis.ErrNotWhole)
	other := errors.New("no fault could be played")
	for name, c := range map[string]struct {
		struck, cause error
		failed        []error
		broken        bool
	}{
		"all is well":                          {nil, nil, []error{nil, nil}, false},
		"not whole":                            {notWhole, nil, []error{nil, nil}, false},
		"not whole, and clients wait in vain":  {notWhole, errLate, []error{context.Canceled, nil}, false},
		"whole, and clients wait in vain":      {nil, errLate, []error{context.Canceled, nil}, true},
		"a fault that could not be played":     {other, other, []error{context.Canceled}, true},
		"not whole, and a workload that fails": {notWhole, other, []error{other}, true},
	} {
		if got := broken(c.struck, c.cause, c.failed); (got != nil) != c.broken {
			t.Errorf("%s: %v", name, got)
		}
	}
}
