// Command control measures the controllers and the scheduler over the API of a whole
// cluster, on simulated nodes whose agents it plays. It is the section "control" of
// the bench. Nothing imports it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"

	"kontiki/bench/lab"
	"kontiki/bench/report"
	"kontiki/bench/section"
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
	bin := flag.String("bin", "bin", "directory with the program kontiki")
	some := flag.String("only", "", "measure only these, of "+strings.Join(names(), ","))
	traces := flag.String("profile", "", "directory for CPU profiles of the nodes while pods are bound")
	hosts := flag.Int("hosts", 3, "nodes of the cluster")
	section.Main(extents, func(ctx context.Context, e extent, out *report.Report) error {
		var only []string
		if *some != "" {
			only = strings.Split(*some, ",")
		}
		for _, name := range only {
			if !slices.Contains(names(), name) {
				return fmt.Errorf("-only %s: there are %s", name, strings.Join(names(), ", "))
			}
		}
		return run(ctx, *bin, *traces, *hosts, only, e, out)
	})
}

// part is one measurement; they follow each other in this order.
type part struct {
	name    string
	measure func(*bench, context.Context, extent) error
}

var parts = []part{
	{"deployment", func(b *bench, ctx context.Context, e extent) error { return b.deployment(ctx, e.nodes, e.deployment) }},
	{"scheduling", func(b *bench, ctx context.Context, e extent) error {
		return b.scheduling(ctx, e.nodes, e.pods, false, "≥ 5000 /s")
	}},
	{"spread", func(b *bench, ctx context.Context, e extent) error {
		return b.scheduling(ctx, e.wide, e.pods, true, "≥ 2000 /s")
	}},
	{"garbage", func(b *bench, ctx context.Context, e extent) error { return b.garbage(ctx, e.dependents) }},
	{"takeover", func(b *bench, ctx context.Context, _ extent) error { return b.takeover(ctx) }},
}

func names() (all []string) {
	for _, p := range parts {
		all = append(all, p.name)
	}
	return all
}

func run(ctx context.Context, bin, traces string, hosts int, only []string, e extent, out *report.Report) (err error) {
	l, err := lab.New(bin, "benchctl")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Down()) }()
	if _, err := l.Up(ctx, hosts); err != nil {
		return err
	}
	b := &bench{lab: l, hosts: hosts, traces: traces, out: out}
	if b.client, err = b.connect(ctx, "n1"); err != nil {
		return err
	}
	for _, p := range parts {
		if len(only) > 0 && !slices.Contains(only, p.name) {
			continue
		}
		if err := p.measure(b, ctx, e); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

// bench measures over one client.
type bench struct {
	lab    *lab.Lab
	hosts  int
	traces string // directory of profiles; empty for none
	client kubernetes.Interface
	out    *report.Report
}

// connect is the administrator's client of one host's API. It speaks protobuf, as
// components do: it shares the CPUs with what it measures.
func (b *bench) connect(ctx context.Context, host string) (kubernetes.Interface, error) {
	config, err := b.lab.Client(ctx, host)
	if err != nil {
		return nil, err
	}
	config.QPS = -1
	config.ContentType, config.AcceptContentTypes = runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf+","+runtime.ContentTypeJSON
	return kubernetes.NewForConfig(config)
}

// profileSeconds is how long profiles go on.
const profileSeconds = 5

// profile has all nodes write CPU profiles, if that is wanted; done waits for them.
func (b *bench) profile(ctx context.Context, what string) (done func() error) {
	if b.traces == "" {
		return func() error { return nil }
	}
	hosts, err := b.lab.Hosts(ctx)
	if err != nil {
		return func() error { return err }
	}
	var all errgroup.Group
	for _, h := range hosts {
		name := h.Name
		if name == h.Leader {
			name += "-leader"
		}
		all.Go(func() error {
			return b.lab.Profile(ctx, h.Name, profileSeconds, filepath.Join(b.traces, what+"-"+name+".pprof"))
		})
	}
	return all.Wait
}

// cpu is the time that all nodes of the cluster have had on CPUs so far.
func (b *bench) cpu(ctx context.Context) (sum time.Duration, err error) {
	hosts, err := b.lab.Hosts(ctx)
	if err != nil {
		return 0, err
	}
	for _, h := range hosts {
		used, err := b.lab.Use(h.Name)
		if err != nil {
			return 0, err
		}
		sum += used.CPU
	}
	return sum, nil
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
