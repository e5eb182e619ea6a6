package shim_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kontiki/runtime/shim"
	"kontiki/runtime/shim/shimtest"
)

// TestKilledAtRandomUnderLoad kills the shim again and again while pods start, end and are
// removed. Callers that repeat what was not answered must see each pod through,
// with the right exit code or an unknown one, and nothing may be left.
func TestKilledAtRandomUnderLoad(t *testing.T) {
	e := shimtest.New(t)
	const workers, kills = 3, 8
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	ctx, cancel := context.WithTimeout(t.Context(), 4*shimtest.Patience)
	defer cancel()
	specs := make([]shim.ContainerSpec, workers)
	for i := range specs {
		specs[i] = e.Spec("", "w"+itoa(i), "sleep-then", "20", "6")
	}

	stop := make(chan struct{})
	results := make(chan error, workers)
	unknown := make([]int, workers)
	for w := range workers {
		go func() {
			n := 0
			for ; ; n++ {
				select {
				case <-stop:
					results <- nil
					t.Logf("worker %d: %d pods, %d exits unknown", w, n, unknown[w])
					return
				default:
				}
				spec := specs[w]
				spec.ID = fmt.Sprintf("w%d-%d", w, n)
				spec.SandboxID = spec.ID
				exit, err := throughLife(ctx, e.Client, spec)
				if err == nil && exit.Code != 6 && !exit.Unknown {
					err = fmt.Errorf("%s: %+v", spec.ID, exit)
				}
				if err != nil {
					results <- err
					return
				}
				if exit.Unknown {
					unknown[w]++
				}
			}
		}()
	}
	random := rand.New(rand.NewPCG(seed, 0))
	for range kills {
		info, err := e.Client.Info(ctx)
		if err != nil {
			t.Fatal(err)
		}
		pause := time.NewTimer(time.Duration(random.IntN(500)) * time.Millisecond)
		<-pause.C
		unix.Kill(info.PID, unix.SIGKILL)
		shimtest.Eventually(t, "the killed shim to be gone", func() bool { return !shimtest.Alive(info.PID) })
	}
	close(stop)
	for range workers {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if _, err := e.Client.Info(ctx); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"sandboxes", "containers", "exits", "state"} {
		if left, err := os.ReadDir(e.Config.Dir + "/" + d); err != nil || len(left) != 0 {
			t.Errorf("left in %s: %v, %v", d, left, err)
		}
	}
	if m := shimtest.MountsBelow(e.Dir); len(m) != 0 {
		t.Errorf("left mounts: %v", m)
	}
}

// throughLife takes one pod from nothing to nothing, repeating each step until it is answered.
func throughLife(ctx context.Context, c *shim.Client, spec shim.ContainerSpec) (exit shim.Exit, err error) {
	steps := []func() error{
		func() error {
			_, err := c.CreateSandbox(ctx, shim.SandboxSpec{ID: spec.SandboxID, PodUID: spec.SandboxID, QOS: shim.BestEffort})
			return err
		},
		func() error { _, err := c.Create(ctx, spec); return err },
		func() error { _, err := c.Start(ctx, spec.ID); return err },
		func() error {
			var cursor shim.Cursor
			for exit.ContainerID != spec.ID {
				exits, next, err := c.Exits(ctx, cursor)
				if err != nil {
					return err
				}
				for _, x := range exits {
					if x.ContainerID == spec.ID {
						exit = x
					}
				}
				cursor = next
			}
			return nil
		},
		func() error { return c.Acknowledge(ctx, spec.ID) },
		func() error { return c.RemoveSandbox(ctx, spec.SandboxID) },
	}
	for i, step := range steps {
		for {
			err := step()
			if err == nil {
				break
			}
			if !errors.Is(err, shim.ErrUnavailable) {
				return exit, fmt.Errorf("%s, step %d: %w", spec.ID, i, err)
			}
		}
	}
	return exit, nil
}
