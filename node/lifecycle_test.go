package node

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
)

func TestPartsStopInReverse(t *testing.T) {
	_, life := newLifecycle(t.Context(), slog.New(slog.DiscardHandler))
	var stopped []string
	for _, name := range []string{"port", "store", "agent"} {
		life.start(name, func(ctx context.Context) error {
			<-ctx.Done()
			stopped = append(stopped, name) // one at a time: the next part stops when this one has
			return nil
		})
	}
	life.stop()
	if want := []string{"agent", "store", "port"}; !slices.Equal(stopped, want) {
		t.Errorf("stopped %v, want %v", stopped, want)
	}
}

func TestFirstFailureEndsTheNodeWithItsReason(t *testing.T) {
	broken := errors.New("disk on fire")
	for name, run := range map[string]func(context.Context) error{
		"fails":             func(context.Context) error { return broken },
		"ends without word": func(context.Context) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			ctx, life := newLifecycle(t.Context(), slog.New(slog.DiscardHandler))
			defer life.stop()
			life.start("store", run)
			<-ctx.Done()
			if cause := context.Cause(ctx); !strings.Contains(cause.Error(), "store") {
				t.Errorf("the node ended because of %q, which does not name the part", cause)
			}
		})
	}
}
