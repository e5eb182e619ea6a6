// Command api measures the Kubernetes API of real nodes on virtual hosts, one alone
// and three together, beside upstream's kube-apiserver with one etcd, in the same
// run. It is the section "api" of the bench. Nothing imports it.
package main

import (
	"context"
	"errors"
	"flag"
	"time"

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
	each   time.Duration // of each measurement of a rate
	starts int           // of a server
	pods   int           // that a list returns
	lists  int
	events int // whose way to another node is measured
	settle time.Duration
}

var extents = map[string]extent{
	"quick":  {each: time.Second, starts: 1, pods: 1000, lists: 3, events: 50, settle: 3 * time.Second},
	"normal": {each: 2 * time.Second, starts: 3, pods: 10_000, lists: 10, events: 500, settle: 15 * time.Second},
	"long":   {each: 10 * time.Second, starts: 10, pods: 10_000, lists: 30, events: 2000, settle: time.Minute},
}

func main() {
	var o options
	flag.StringVar(&o.bin, "bin", "bin", "directory with the program kontiki")
	flag.BoolVar(&o.peer, "peer", true, "measure upstream's kube-apiserver, too; it is built when it is missing")
	section.Main(extents, func(ctx context.Context, e extent, out *report.Report) error {
		o.extent = e
		return run(ctx, o, out)
	})
}

func run(ctx context.Context, o options, out *report.Report) error {
	if err := measureAlone(ctx, o, out); err != nil {
		return err
	}
	return measureThree(ctx, o, out)
}

// measureAlone compares one node with one upstream server.
func measureAlone(ctx context.Context, o options, out *report.Report) (err error) {
	node, err := startKontiki(ctx, o.bin, 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, node.stop()) }()
	all := []*server{node}
	if o.peer {
		upstream, err := startUpstream(ctx, o.bin)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, upstream.stop()) }()
		all = append(all, upstream)
	}
	for _, measure := range []func(context.Context, options, []*server, *report.Report) error{
		measureStart, measureMemory, measurePods, measureCreates, measureGets,
	} {
		if err := measure(ctx, o, all, out); err != nil {
			return err
		}
	}
	return nil
}

// measureThree measures a cluster of three nodes on this machine. What would be
// compared with it is three machines, so it has no peer.
func measureThree(ctx context.Context, o options, out *report.Report) (err error) {
	cluster, err := startKontiki(ctx, o.bin, 3)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cluster.stop()) }()
	if err := measureWatch(ctx, o, cluster, out); err != nil {
		return err
	}
	return measureRates(ctx, o, []*server{cluster}, out, []rate{
		{op: createOp, kind: configMaps, encoding: protobuf, clients: 1},
		{op: createOp, kind: configMaps, encoding: protobuf, clients: 16},
		{op: createOp, kind: configMaps, encoding: protobuf, clients: 64},
		{op: createOp, kind: pods, encoding: protobuf, clients: 16},
		{op: getOp, kind: configMaps, encoding: protobuf, clients: 16},
	})
}
