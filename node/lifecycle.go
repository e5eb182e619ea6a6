package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
)

// lifecycle runs the parts of a node and stops them in the reverse order of
// their start. The first part that ends by itself fails the whole.
type lifecycle struct {
	log   *slog.Logger
	fail  context.CancelCauseFunc
	stops []func()
}

// newLifecycle returns a context that ends with ctx or with the first part that
// fails; the reason is its cause.
func newLifecycle(ctx context.Context, log *slog.Logger) (context.Context, *lifecycle) {
	ctx, cancel := context.WithCancelCause(ctx)
	return ctx, &lifecycle{log: log, fail: cancel}
}

// start runs a part on a context of its own, which ends when it is the part's
// turn to stop.
func (l *lifecycle) start(name string, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := run(ctx)
		switch {
		case ctx.Err() != nil && err == nil:
		case ctx.Err() != nil:
			l.log.Warn("a part of the node did not stop cleanly", "part", name, "err", err)
		case errors.Is(err, errRemoved):
			l.fail(err)
		case err == nil:
			l.fail(fmt.Errorf("%s ended without a reason", name))
		default:
			l.fail(fmt.Errorf("%s: %w", name, err))
		}
	}()
	l.stops = append(l.stops, func() { cancel(); <-done })
}

// onStop has close called when it is its turn.
func (l *lifecycle) onStop(name string, close func() error) {
	l.stops = append(l.stops, func() {
		if err := close(); err != nil {
			l.log.Warn("a part of the node did not close cleanly", "part", name, "err", err)
		}
	})
}

// stop stops all parts, the last one first, and waits for each.
func (l *lifecycle) stop() {
	for _, stop := range slices.Backward(l.stops) {
		stop()
	}
	l.stops = nil
	l.fail(nil)
}
