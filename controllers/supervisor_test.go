package controllers

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

type runnerFunc func(context.Context) error

func (f runnerFunc) Run(ctx context.Context) error { return f(ctx) }

func TestAPanickingControllerIsStartedAgainWithBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		began := time.Now()
		var at []time.Duration
		healthy := 0
		health := &Health{}
		if err := supervise(ctx, quiet, health, []controller{
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
		}); err != nil {
			t.Fatal(err)
		}
		if c := health.all["panics"]; c.restarts != 3 || c.running {
			t.Errorf("health tells %+v, want 3 restarts", c)
		}
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

// A controller that never stays up takes the others with it, and the node is told; the
// trouble was reported all the time.
func TestAHopelessControllerIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		troubles := map[string]string{}
		health := &Health{Report: func(key, text string) { troubles[key] = text }, Solved: func(key string) { delete(troubles, key) }}
		stopped := false
		err := supervise(t.Context(), quiet, health, []controller{
			{name: "panics", start: func() (runner, error) {
				return runnerFunc(func(context.Context) error { panic("for the test") }), nil
			}},
			{name: "healthy", start: func() (runner, error) {
				return runnerFunc(func(ctx context.Context) error { <-ctx.Done(); stopped = true; return nil }), nil
			}},
		})
		if !errors.Is(err, ErrHopeless) || !stopped {
			t.Errorf("ended with %v, the others stopped: %v", err, stopped)
		}
		if text := troubles["controller/panics"]; !strings.Contains(text, "controller panics stopped on this node (panic: for the test)") {
			t.Errorf("the operator is told %q", text)
		}
		if c := health.all["panics"]; c.restarts != hopeless || c.running {
			t.Errorf("health tells %+v", c)
		}
	})
}

// A controller that is well again is no trouble any more.
func TestAControllerThatRecoversIsNoTroubleAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		troubles := map[string]string{}
		health := &Health{Report: func(key, text string) { troubles[key] = text }, Solved: func(key string) { delete(troubles, key) }}
		runs := 0
		err := supervise(ctx, quiet, health, []controller{{name: "once", start: func() (runner, error) {
			return runnerFunc(func(ctx context.Context) error {
				if runs++; runs == 1 {
					panic("once")
				}
				time.Sleep(2 * stable)
				if len(troubles) != 0 {
					t.Errorf("still told: %v", troubles)
				}
				cancel()
				return nil
			}), nil
		}}})
		if err != nil || runs != 2 {
			t.Errorf("ended with %v after %d runs", err, runs)
		}
	})
}
