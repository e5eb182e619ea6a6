// Command raftstore measures the replicated store: three real processes on this
// machine, over TLS on loopback, beside Debian's etcd-server as three processes
// with its own client, on the same disk, in the same run. It prints a table of
// target, measured value, peer and ratio.
//
// The parent process drives; each replica is this program again, told what to do
// by one line of JSON at a time (replica.go). Nothing imports it.
package main

import (
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
	"time"
)

// options are the command line.
type options struct {
	dir      string
	only     string
	seconds  int
	kills    int
	keys     int
	watchers int
	starve   int
	peer     bool
	profile  string
}

func main() {
	var o options
	var replicaID string
	var spin bool
	flag.StringVar(&o.dir, "dir", "", "directory for all data; default: a new one, removed at the end")
	flag.StringVar(&o.only, "only", "", "comma-separated: writes, lag, failover, starved, fanout, restart; default: all")
	flag.IntVar(&o.seconds, "seconds", 8, "length of each measurement of writes")
	flag.IntVar(&o.kills, "kills", 50, "leaders killed")
	flag.IntVar(&o.keys, "keys", 100_000, "keys held at the restart")
	flag.IntVar(&o.watchers, "watchers", 1000, "watches at the fan-out")
	flag.IntVar(&o.starve, "starve", 60, "seconds of a starved CPU")
	flag.BoolVar(&o.peer, "peer", true, "measure etcd, too; installed if it is missing and this is root")
	flag.StringVar(&o.profile, "profile", "", "directory into which each replica writes a CPU profile")
	flag.StringVar(&replicaID, "replica", "", "internal: be this replica")
	flag.BoolVar(&spin, "spin", false, "internal: burn a CPU")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	switch {
	case spin:
		burn(ctx)
	case replicaID != "":
		err = profiled(o.profile, replicaID, func() error { return runReplica(ctx, o.dir, replicaID, os.Stdin, os.Stdout) })
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
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return err
	}
	fmt.Printf("load before: %s", load)
	began := time.Now()
	t := &table{}
	g, err := newGroup(o.dir, o.profile)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.close()) }()
	for _, m := range []struct {
		name string
		run  func(context.Context, options, *group, *table) error
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
		if err := m.run(ctx, o, g, t); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	if load, err = os.ReadFile("/proc/loadavg"); err != nil {
		return err
	}
	t.print(os.Stdout)
	fmt.Printf("took %v, load after: %s", time.Since(began).Round(time.Second), load)
	return nil
}
