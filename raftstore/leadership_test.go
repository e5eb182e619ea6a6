package raftstore

import (
	"context"
	"errors"
	"testing"
	"time"
)

// forgotten is a future that Raft was shut down with.
type forgotten chan error

func (f forgotten) Error() error { return <-f }

func TestForgottenFutureHoldsNobody(t *testing.T) {
	f := make(forgotten)
	defer close(f)
	why := errors.New("the caller has gone")
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Millisecond, why)
	defer cancel()
	if err := await(ctx, f); !errors.Is(err, why) {
		t.Errorf("%v", err)
	}
}
