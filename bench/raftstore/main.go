// Command raftstore measures the replicated store: three real processes on this
// machine, over TLS on loopback, beside Debian's etcd-server as three processes
// with its own client, on the same disk, in the same run. It is the section
// "store" of the bench.
//
// The parent process drives; each replica is this program again, told what to do
// by one line of JSON at a time (replica.go). Nothing imports it.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"syscall"

	"kontiki/bench/report"
	"kontiki/raftstore"
)

// options are the command line.
type options struct {
	dir     string
	only    string
	peer    bool
	profile string
	json    bool
	extent
}

// extent is how much is measured.
type extent struct {
	seconds  int // of each measurement of writes
	kills    int // of leaders
	keys     int // at the restart
	watchers int
	starve   int // seconds of a starved CPU
}

var extents = map[string]extent{
	"quick":  {seconds: 2, kills: 5, keys: 10_000, watchers: 1000, starve: 10},
	"normal": {seconds: 8, kills: 50, keys: 100_000, watchers: 1000, starve: 60},
	"long":   {seconds: 20, kills: 50, keys: 100_000, watchers: 1000, starve: 300},
}

func main() {
	var o options
	var replicaID, length, log string
	var spin bool
	flag.StringVar(&o.dir, "dir", "", "directory for all data; default: a new one, removed at the end")
	flag.StringVar(&o.only, "only", "", "comma-separated: writes, lag, fanout, failover, starved, restart; default: all")
	flag.StringVar(&length, "length", "normal", "quick, normal or long")
	flag.IntVar(&o.seconds, "seconds", 0, "length of each measurement of writes, if not that of -length")
	flag.IntVar(&o.kills, "kills", 0, "leaders killed, if not those of -length")
	flag.BoolVar(&o.peer, "peer", true, "measure etcd, too; installed if it is missing and this is root")
	flag.StringVar(&o.profile, "profile", "", "directory into which each replica writes a CPU profile")
	flag.BoolVar(&o.json, "json", false, "write rows for the driver of the bench")
	flag.String("bin", "", "not used: this program drives itself")
	flag.StringVar(&replicaID, "replica", "", "internal: be this replica")
	flag.StringVar(&log, "log", "", "internal: its log store")
	flag.BoolVar(&spin, "spin", false, "internal: burn a CPU")
	flag.Parse()
	chosen, ok := extents[length]
	if !ok {
		fmt.Fprintf(os.Stderr, "bench: -length %s: use quick, normal or long\n", length)
		os.Exit(2)
	}
	chosen.seconds, chosen.kills = cmp.Or(o.seconds, chosen.seconds), cmp.Or(o.kills, chosen.kills)
	o.extent = chosen

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	switch {
	case spin:
		burn(ctx)
	case replicaID != "":
		// The parent ends its replicas; an interrupt at the terminal is for it.
		err = profiled(o.profile, replicaID, func() error {
			return runReplica(context.WithoutCancel(ctx), o.dir, replicaID, raftstore.LogStore(log), os.Stdin, os.Stdout)
		})
	default:
		err = run(ctx, o)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// profiled runs a replica under the CPU profiler, if there is a directory for that.
func profiled(dir, id string, run func() error) error {
	if dir == "" {
		return run()
	}
	f, err := os.Create(filepath.Join(dir, fmt.Sprintf("%s-%d.prof", id, os.Getpid())))
	if err != nil {
		return err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return err
	}
	err = run()
	pprof.StopCPUProfile()
	return errors.Join(err, f.Close())
}

func burn(ctx context.Context) {
	for n := 0; ; n++ {
		if n%(1<<20) == 0 && ctx.Err() != nil {
			return
		}
	}
}

// wants tells whether a measurement was asked for.
func (o options) wants(name string) bool {
	return o.only == "" || strings.Contains(","+o.only+",", ","+name+",")
}

func run(ctx context.Context, o options) (err error) {
	if o.dir == "" {
		if o.dir, err = os.MkdirTemp("", "kontiki-bench-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(o.dir)) }()
	}
	out := report.New(os.Stdout, o.json)
	g, err := newGroup(filepath.Join(o.dir, "boltdb"), o.profile, raftstore.LogBolt)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.close()) }()
	for _, m := range []struct {
		name string
		run  func(context.Context, options, *group, *report.Report) error
	}{
		{"writes", measureWrites},
		{"lag", measureLag},
		{"fanout", measureFanout},
		{"failover", measureFailover},
		{"starved", measureStarved},
		{"restart", measureRestart},
	} {
		if !o.wants(m.name) {
			continue
		}
		if err := m.run(ctx, o, g, out); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	return nil
}
