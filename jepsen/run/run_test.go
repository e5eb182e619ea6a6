package run

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"kontiki/jepsen/history"
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

// TestNoFaultIsNoProof: a run that was to play faults and played none has shown nothing.
func TestNoFaultIsNoProof(t *testing.T) {
	fault := []history.Event{{Type: history.Invoke, Process: -2, F: "kill"}}
	whole := []history.Event{{Type: history.Invoke, Process: -1, F: history.Whole}}
	for name, c := range map[string]struct {
		nemeses  []string
		events   []history.Event
		unproven int
	}{
		"a fault":             {[]string{"kill"}, fault, 0},
		"none":                {[]string{"kill"}, nil, 1},
		"none, and it waited": {[]string{"mix"}, whole, 1},
		"none asked for":      {[]string{"none"}, nil, 0},
	} {
		if got := (Settings{Nemeses: c.nemeses}).unproven(nil, c.events); len(got) != c.unproven {
			t.Errorf("%s: %q", name, got)
		}
	}
}
