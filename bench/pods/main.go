// Command pods measures a node's work with pods, of one whole node on a virtual host, beside Debian's
// containerd with ctr, and podman, in the same run. It is the section "pods" of the bench. Nothing
// imports it.
package main

import (
	"context"
	"errors"
	"flag"
	"path/filepath"
	"time"

	"kontiki/bench/peer"
	"kontiki/bench/report"
	"kontiki/bench/section"
)

// options are the command line.
type options struct {
	bin  string
	peer bool
	extent
}

// extent is how much is measured.
type extent struct {
	single int           // pods, one after the other
	burst  int           // pods at once
	bursts int           // how often
	crowd  int           // pods beside each other
	few    int           // containers of peers beside each other, of which each costs the same
	kept   int           // pods that a restart of the node must keep
	kills  int           // of the node
	execs  int           // commands in a container
	settle time.Duration // before memory is looked at
}

var extents = map[string]extent{
	"quick":  {single: 10, burst: 30, bursts: 1, crowd: 50, few: 10, kept: 30, kills: 1, execs: 5, settle: 3 * time.Second},
	"normal": {single: 50, burst: 100, bursts: 3, crowd: 200, few: 20, kept: 100, kills: 3, execs: 20, settle: 10 * time.Second},
	"long":   {single: 300, burst: 100, bursts: 10, crowd: 200, few: 20, kept: 100, kills: 10, execs: 100, settle: 30 * time.Second},
}

func main() {
	var o options
	flag.StringVar(&o.bin, "bin", "bin", "directory with the program kontiki and examples/web.tar")
	flag.BoolVar(&o.peer, "peer", true, "measure containerd and podman, too; they are installed when they are missing")
	section.Main(extents, func(ctx context.Context, e extent, out *report.Report) error {
		o.extent = e
		return run(ctx, o, out)
	})
}

func run(ctx context.Context, o options, out *report.Report) (err error) {
	archive, err := filepath.Abs(filepath.Join(o.bin, "examples", "web.tar"))
	if err != nil {
		return err
	}
	n, err := startNode(ctx, o.bin, archive)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.stop()) }()
	b := &bench{extent: o.extent, out: out, node: n}
	if o.peer {
		for _, start := range []func(context.Context, string) (*peer.Engine, error){peer.Containerd, peer.Podman} {
			e, err := start(ctx, archive)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, e.Close()) }()
			b.engines = append(b.engines, e)
		}
	}
	for _, measure := range []func(context.Context) error{b.oneAfterTheOther, b.atOnce, b.besideEachOther, b.commands, b.restarts} {
		if err := measure(ctx); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}
