package run

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"kontiki/jepsen/history"
	"kontiki/jepsen/lab"
	"kontiki/jepsen/nemesis"
	"kontiki/jepsen/workload"
)

// Config says what is run.
type Config struct {
	Workloads []string
	Nemeses   []string // none, or "none": no faults
	Nodes     int
	Time      time.Duration // that faults are played for
	Seed      uint64
	Clients   int     // of each workload, on each node
	Rate      float64 // requests a second of each workload
	Dir       string  // for history, report and logs; must be empty or not exist
	Lab       lab.Config
	Witness   string // the archive of the image of jepsen/witness
	Command   string // by which the run can be repeated, for its report
	Program   string // what was run, for its report
	Progress  io.Writer
}

const upTime = 3 * time.Minute

// errLate says that clients were broken off.
var errLate = errors.New("clients did not end in time")

// The names of files in a run's directory.
const (
	historyFile  = "history.jsonl"
	settingsFile = "settings.json"
	reportFile   = "report.html"
)

// Do does a run and judges it. An error says that the run is broken: it proves nothing.
func Do(ctx context.Context, cfg Config) (*Verdict, error) {
	workloads, err := workload.Select(cfg.Workloads)
	if err != nil {
		return nil, err
	}
	plan, err := nemesis.NewPlan(cfg.Seed, cfg.faults(), cfg.Nodes)
	if err != nil {
		return nil, err
	}
	if err := freshDir(cfg.Dir); err != nil {
		return nil, err
	}
	settings := cfg.settings()
	if err := settings.write(cfg.Dir); err != nil {
		return nil, err
	}
	if err := cfg.play(ctx, workloads, plan); err != nil {
		return nil, err
	}
	return Judge(cfg.Dir)
}

func (c Config) faults() []string {
	if len(c.Nemeses) == 1 && c.Nemeses[0] == "none" {
		return nil
	}
	return c.Nemeses
}

func (c Config) say(format string, args ...any) {
	fmt.Fprintf(c.Progress, format+"\n", args...)
}

// freshDir makes a directory that holds nothing.
func freshDir(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if len(entries) > 0 {
		return fmt.Errorf("%s is not empty: name another directory with --report, or remove it", dir)
	}
	return nil
}

// play makes the lab, runs clients and faults in it, and removes it.
func (c Config) play(ctx context.Context, workloads []workload.Workload, plan *nemesis.Plan) (err error) {
	l, err := lab.Create(c.Lab, c.Nodes)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, keepLogs(l, c.Dir), lab.Down(c.Lab)) }()
	up, cancel := context.WithTimeout(ctx, upTime)
	defer cancel()
	if err := l.Up(up, c.Progress); err != nil {
		return err
	}
	for _, h := range l.Hosts() {
		if err := c.loadWitness(up, h); err != nil {
			return err
		}
	}
	recorder, err := history.Create(filepath.Join(c.Dir, historyFile))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, recorder.Close()) }()
	return c.prove(ctx, l, recorder, workloads, plan)
}

// prove runs clients and faults beside each other: faults for the time of the run, then
// the clients a little longer, in a cluster that is whole.
func (c Config) prove(ctx context.Context, l *lab.Lab, recorder *history.Recorder, workloads []workload.Workload, plan *nemesis.Plan) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	where, err := addressesOf(l)
	if err != nil {
		return err
	}
	ending := make(chan struct{})
	clients := &workload.Run{Recorder: recorder, Nodes: where.nodes, Clients: c.Clients, Rate: c.Rate, Seed: c.Seed, Shared: l.Shared(), Ending: ending}
	for _, w := range workloads {
		if err := w.SetUp(ctx, clients); err != nil {
			return err
		}
	}
	n, err := nemesis.New(ctx, l, recorder, plan, nemesis.Told{
		Moved: where.moved, Say: c.sayer(recorder), Replaced: func(ctx context.Context, host string) error {
			h, err := l.Host(host)
			if err != nil {
				return err
			}
			return c.loadWitness(ctx, h)
		},
	})
	if err != nil {
		return err
	}
	var running sync.WaitGroup
	failed := make([]error, len(workloads))
	for i, w := range workloads {
		running.Go(func() {
			if failed[i] = w.Run(ctx, clients); failed[i] != nil {
				cancel(failed[i])
			}
		})
	}
	c.say("%d workloads with %d clients on each of %d nodes; faults for %v", len(workloads), c.Clients, c.Nodes, c.Time)
	struck := n.Run(ctx, time.Now().Add(c.Time))
	if struck == nil {
		struck = n.BecomeWhole(ctx)
	}
	if errors.Is(struck, nemesis.ErrNotWhole) {
		c.say("%v", struck)
	} else if struck != nil {
		cancel(struck)
	}
	last, stop := context.WithTimeoutCause(ctx, workload.EndTime+time.Minute, errLate)
	defer stop()
	defer context.AfterFunc(last, func() { cancel(context.Cause(last)) })()
	close(ending)
	running.Wait()
	return broken(struck, context.Cause(ctx), failed)
}

// broken is why nothing can be judged, if that is so. That the cluster did not become whole
// is in the history, and judged; so is then what clients did until they were broken off.
func broken(struck, cause error, failed []error) error {
	if errors.Is(struck, nemesis.ErrNotWhole) {
		struck = nil
		if errors.Is(cause, errLate) {
			return nil
		}
	}
	return errors.Join(append(failed, struck)...)
}

// loadWitness gives a host the image that workloads with containers need.
func (c Config) loadWitness(ctx context.Context, h *lab.Host) error {
	var out bytes.Buffer
	if err := h.Exec(ctx, nil, &out, &out, c.Lab.Binary, "image", "load", c.Witness); err != nil {
		return fmt.Errorf("load the image of the witness on %s: %w: %s", h.Name, err, out.String())
	}
	return nil
}

// sayer tells what faults do, with the time since the run began.
func (c Config) sayer(r *history.Recorder) func(string, ...any) {
	return func(format string, args ...any) {
		c.say("%6.1fs  %s", time.Since(r.Began()).Seconds(), fmt.Sprintf(format, args...))
	}
}

// keepLogs copies what the nodes logged into the run's directory.
func keepLogs(l *lab.Lab, dir string) error {
	var failed error
	for _, h := range l.Hosts() {
		log, err := os.ReadFile(h.LogPath())
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, h.Name+".log"), log, 0o644)
		}
		failed = errors.Join(failed, err)
	}
	return failed
}
