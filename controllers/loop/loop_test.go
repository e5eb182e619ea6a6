package loop

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"
)

func silent() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func TestFailedKeysComeBackAndPanicsEndTheLoop(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	synctest.Test(t, func(t *testing.T) {
		l := New("test", silent())
		l.Add("a")
		tries := 0
		err := l.Run(t.Context(), 2, func(_ context.Context, key string) error {
			if tries++; tries < 3 {
				return errors.New("not yet")
			}
			panic("enough of " + key)
		})
		if tries != 3 || err == nil || !strings.Contains(err.Error(), "enough of a") {
			t.Errorf("%d tries, error %v", tries, err)
		}
	})
}

func TestRunWaitsForWorkers(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		l := New("test", silent())
		l.Add("a")
		finished := false
		err := l.Run(ctx, 1, func(ctx context.Context, _ string) error {
			cancel()
			<-ctx.Done()
			finished = true
			return ctx.Err()
		})
		if err != nil || !finished {
			t.Errorf("Run returned %v, worker finished: %v", err, finished)
		}
	})
}
