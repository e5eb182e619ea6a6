package controllers

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

type runnerFunc func(context.Context) error

func (f runnerFunc) Run(ctx context.Context) error { return f(ctx) }

func TestAPanickingControllerIsStartedAgainWithBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		began := time.Now()
		var at []time.Duration
		healthy := 0
		supervise(ctx, slog.New(slog.NewTextHandler(io.Discard, nil)), []controller{
			{name: "panics", start: func() (runner, error) {
				return runnerFunc(func(ctx context.Context) error {
					at = append(at, time.Since(began))
					switch len(at) {
					case 1:
						panic("for the test")
					case 2:
						return errors.New("failed")
					case 3: // well for a while, so that back-off starts anew
						time.Sleep(2 * stable)
						panic("again")
					}
					cancel()
					return nil
				}), nil
			}},
			{name: "healthy", start: func() (runner, error) {
				return runnerFunc(func(ctx context.Context) error { healthy++; <-ctx.Done(); return nil }), nil
			}},
		})
		want := []time.Duration{0, firstRestart, 3 * firstRestart, 3*firstRestart + 2*stable + firstRestart}
		for i := range want {
			if len(at) != len(want) || at[i] != want[i] {
				t.Fatalf("started at %v, want %v", at, want)
			}
		}
		if healthy != 1 {
			t.Errorf("the healthy controller was started %d times", healthy)
		}
	})
}
