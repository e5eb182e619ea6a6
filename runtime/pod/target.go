package pod

import (
	"context"
	"errors"
	"fmt"
	"os"

	"kontiki/runtime/shim"
)

// ErrNotRunning: the container is not there to be entered.
var ErrNotRunning = errors.New("is not running")

// Target is a running container as those need it who enter it from outside.
type Target struct {
	ID        string
	Exec      shim.ExecSpec // as what a process joins it; Args are missing
	Output    *Output       // nil: not read by this agent
	Stdin     string        // path of the FIFO; empty: it has none
	StdinOnce bool
	TTY       bool
}

// Target finds a container by name. It waits for the worker, bounded by ctx.
func (w *Worker) Target(ctx context.Context, container string) (Target, error) {
	var t Target
	var err error
	if aerr := w.ask(ctx, func(r *Record) {
		c, spec := r.Containers[container], w.spec(container)
		if c == nil || spec == nil || c.State != Running {
			err = fmt.Errorf("container %q of pod %s %w", container, describe(r.Pod), ErrNotRunning)
			return
		}
		t = Target{ID: c.ID, Exec: c.Exec, TTY: spec.TTY, StdinOnce: spec.StdinOnce}
		if p := w.pumps[container]; p != nil {
			t.Output, t.Stdin = p.out, p.stdin
		}
	}); aerr != nil {
		return Target{}, aerr
	}
	return t, err
}

// NetNS returns the path of the pod's network namespace, empty for the host's.
func (w *Worker) NetNS(ctx context.Context) (string, error) {
	var path string
	var err error
	if aerr := w.ask(ctx, func(r *Record) {
		switch {
		case r.Pod.Spec.HostNetwork:
		case !r.Sandbox.Ready || r.NetNS == "":
			err = fmt.Errorf("the network of pod %s %w", describe(r.Pod), ErrNotRunning)
		default:
			path = r.NetNS
		}
	}); aerr != nil {
		return "", aerr
	}
	return path, err
}

// RestoreConsoles gives a new shim the terminals that the one before has held.
func (w *Worker) RestoreConsoles(ctx context.Context) {
	w.post(func(r *Record) {
		for name, p := range w.pumps {
			if p.console == nil || r.Containers[name].State != Running {
				continue
			}
			if err := w.deps.Shim.RestoreConsole(ctx, r.Containers[name].ID, p.console); err != nil && ctx.Err() == nil {
				w.log.Warn("cannot give a terminal back to the shim", "container", name, "error", err)
			}
		}
	})
}

// ask runs f in the worker's goroutine and waits until it has run.
func (w *Worker) ask(ctx context.Context, f func(*Record)) error {
	done := make(chan struct{})
	w.post(func(r *Record) {
		f(r)
		close(done)
	})
	select {
	case <-done:
		return nil
	case <-w.ended:
		return fmt.Errorf("the pod %w", ErrNotRunning)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// openConsole returns the terminal's master in a form that can be read and given up.
func (w *Worker) openConsole(ctx context.Context, id string) (*os.File, error) {
	f, err := w.deps.Shim.Console(ctx, id)
	if err != nil {
		return nil, err
	}
	return Pollable(f)
}
