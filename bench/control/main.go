// Command control measures the controllers and the scheduler over the API of a whole
// cluster, on simulated nodes whose agents it plays. It is the section "control" of
// the bench. Nothing imports it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"

	"kontiki/bench/report"
)

// extent is how much is measured.
type extent struct {
	nodes, pods, deployment, dependents int
	wide                                int // nodes of the measurement with topology spread
}

var extents = map[string]extent{
	"quick":  {nodes: 100, pods: 500, deployment: 100, dependents: 500, wide: 200},
	"normal": {nodes: 1000, pods: 5000, deployment: 1000, dependents: 10_000, wide: 5000},
	"long":   {nodes: 1000, pods: 20_000, deployment: 1000, dependents: 10_000, wide: 5000},
}

func main() {
	var bin, length string
	var machine bool
	flag.StringVar(&bin, "bin", "bin", "directory with the program kontiki")
	flag.StringVar(&length, "length", "normal", "quick, normal or long")
	flag.BoolVar(&machine, "json", false, "write rows for the driver of the bench")
	flag.Parse()
	e, ok := extents[length]
	if !ok {
		fmt.Fprintf(os.Stderr, "bench: -length %s: use quick, normal or long\n", length)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, bin, e, report.New(os.Stdout, machine)); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, bin string, e extent, out *report.Report) (err error) {
	c, err := newCluster(ctx, bin, 3)
	if c != nil {
		defer func() { err = errors.Join(err, c.remove()) }()
	}
	if err != nil {
		return err
	}
	config, err := c.config(ctx, "n1")
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	b := &bench{client: client, out: out}
	for _, measure := range []func(context.Context) error{
		func(ctx context.Context) error { return b.deployment(ctx, e.nodes, e.deployment) },
		func(ctx context.Context) error { return b.scheduling(ctx, e.nodes, e.pods, false, "≥ 5000 /s") },
		func(ctx context.Context) error { return b.scheduling(ctx, e.wide, e.pods, true, "≥ 2000 /s") },
		func(ctx context.Context) error { return b.garbage(ctx, e.dependents) },
		func(ctx context.Context) error { return b.takeover(ctx, c) },
	} {
		if err := measure(ctx); err != nil {
			return err
		}
	}
	return nil
}

// bench measures over one client.
type bench struct {
	client kubernetes.Interface
	out    *report.Report
}

// wait asks until it is so, every few milliseconds, ten minutes at most.
func wait(ctx context.Context, what string, so func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 10*time.Minute, fmt.Errorf("waited ten minutes for %s", what))
	defer cancel()
	for {
		ok, err := so(ctx)
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("wait for %s: %w", what, err)
		}
		if ok {
			return nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
