package workload

import (
	"context"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/rest"
)

// TestNodesAreAskedAtOnce: a cluster of which no node answers any more is asked for no
// longer than one of which one does not, and the end of all is within its bound.
func TestNodesAreAskedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &Run{}
		for i := range 9 {
			r.Nodes = append(r.Nodes, Node{Name: "n" + strconv.Itoa(i), Config: &rest.Config{}})
		}
		began := time.Now()
		err := register().throughEach(t.Context(), r, func(ctx context.Context, _ *process) error {
			<-ctx.Done()
			return ctx.Err()
		})
		if err != nil {
			t.Error(err)
		}
		// Watches are given as long before it.
		if took := time.Since(began); took != finalTime || 2*took >= EndTime {
			t.Errorf("it took %v; the end of a run has %v", took, EndTime)
		}
	})
}
