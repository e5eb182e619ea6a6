package nemesis

import (
	"context"
	"errors"
	"fmt"
	"time"

	"kontiki/jepsen/history"
	"kontiki/jepsen/lab"
)

// wholeTime bounds the wait for a cluster to be whole again after a fault.
const wholeTime = 90 * time.Second

// ErrNotWhole is returned when a cluster does not become whole after its faults ended.
var ErrNotWhole = errors.New("the cluster did not become whole again")

// Nemesis strikes a lab.
type Nemesis struct {
	lab      *lab.Lab
	recorder *history.Recorder
	plan     *Plan
	moved    func(host, address string)
	replaced func(ctx context.Context, host string) error
	say      func(format string, args ...any)
	voters   int // of the cluster when it is whole
	pids     map[string]int
	process  int // the last one in the history
}

// Told is who is told of what a Nemesis does.
type Told struct {
	Moved    func(host, address string)                   // a host has another address
	Replaced func(ctx context.Context, host string) error // a blank machine stands for a host, and the cluster is whole
	Say      func(format string, args ...any)             // all, in words
}

// New makes a Nemesis of a lab whose cluster is whole.
func New(ctx context.Context, l *lab.Lab, r *history.Recorder, plan *Plan, told Told) (*Nemesis, error) {
	n := &Nemesis{lab: l, recorder: r, plan: plan, moved: told.Moved, replaced: told.Replaced, say: told.Say}
	status, err := n.ask(ctx)
	if err != nil {
		return nil, err
	}
	n.voters = status.voters()
	n.notePids()
	return n, nil
}

// Run plays rounds until the time is over, and waits after each until the cluster is
// whole. It ends with ErrNotWhole if it does not become that; another error says that a
// fault could not be played, or healed.
func (n *Nemesis) Run(ctx context.Context, until time.Time) error {
	if n.plan.Empty() {
		return wait(ctx, time.Until(until), nil)
	}
	for {
		round := n.plan.Next()
		if time.Now().Add(round.Quiet + round.Lasts).After(until) {
			return wait(ctx, time.Until(until), nil)
		}
		if err := wait(ctx, round.Quiet, nil); err != nil {
			return err
		}
		if err := n.round(ctx, round); err != nil {
			return err
		}
	}
}

// round strikes, lets faults last, heals them and waits until all is well.
func (n *Nemesis) round(ctx context.Context, round Round) error {
	if err := n.crashed(); err != nil {
		return err
	}
	hosts := n.hostNames()
	leader := n.leader(ctx)
	var faults []*fault
	var failed error
	for _, draw := range round.Faults {
		n.process--
		f := &fault{Nemesis: n, Draw: draw, process: n.process, hosts: draw.targets(hosts, leader)}
		if leader != "" && (draw.Kind == "partition-leader" || draw.Kind == "pause-leaders") {
			f.Leader = true
			f.hosts = f.targets(hosts, leader)
		}
		n.recorder.Record(history.Event{Type: history.Invoke, Process: f.process, F: draw.Kind})
		faults = append(faults, f)
		if failed = f.kind().strike(ctx, f); failed != nil {
			failed = fmt.Errorf("%s %s: %w", draw.Kind, f.whom, failed)
			break
		}
		f.tell()
		n.say("%s %s (%s led), for %v", draw.Kind, f.whom, leader, round.Lasts.Round(100*time.Millisecond))
	}
	if failed == nil {
		failed = wait(ctx, round.Lasts, func() error { return during(ctx, faults) })
	}
	// Healing is done whatever happened, also when the run is being broken off.
	healing, cancel := context.WithTimeout(context.WithoutCancel(ctx), wholeTime)
	defer cancel()
	failed = errors.Join(failed, n.heal(healing, faults), n.BecomeWhole(ctx))
	for _, f := range faults {
		if failed == nil && f.Kind == "wipe" {
			failed = n.replaced(ctx, f.struck[0])
		}
	}
	return failed
}

// tell writes down whom the fault touches.
func (f *fault) tell() {
	f.recorder.Record(history.Event{Type: history.Info, Process: f.process, F: history.Touches, Items: f.touches})
}

func during(ctx context.Context, faults []*fault) error {
	for _, f := range faults {
		if act := f.kind().during; act != nil {
			if err := act(ctx, f); err != nil {
				return err
			}
		}
	}
	return nil
}

func (n *Nemesis) heal(ctx context.Context, faults []*fault) error {
	failed := n.lab.Heal()
	for _, f := range faults {
		if heal := f.kind().heal; heal != nil {
			failed = errors.Join(failed, heal(ctx, f))
		}
		n.recorder.Record(history.Event{Type: history.OK, Process: f.process, F: f.Kind, Key: f.whom})
	}
	if failed != nil {
		return fmt.Errorf("heal: %w", failed)
	}
	n.notePids()
	return nil
}

func (f *fault) kind() kind {
	for _, k := range kinds() {
		if k.name == f.Kind {
			return k
		}
	}
	panic("nemesis: a fault that no plan draws: " + f.Kind)
}

func (n *Nemesis) hostNames() (names []string) {
	for _, h := range n.lab.Hosts() {
		names = append(names, h.Name)
	}
	return names
}

// notePids takes down which processes run, to see which end by themselves.
func (n *Nemesis) notePids() {
	n.pids = make(map[string]int)
	for _, h := range n.lab.Hosts() {
		if pid, err := h.Pid(); err == nil {
			n.pids[h.Name] = pid
		}
	}
}

// crashed fails if a node's process ended that no fault has ended.
func (n *Nemesis) crashed() error {
	for _, h := range n.lab.Hosts() {
		if pid, err := h.Pid(); err != nil || pid != n.pids[h.Name] {
			n.process--
			n.recorder.Record(history.Event{Type: history.Invoke, Process: n.process, F: history.Whole, Node: h.Name})
			n.recorder.Record(history.Event{Type: history.Fail, Process: n.process, F: history.Whole, Node: h.Name, Error: "the node on " + h.Name + " ended by itself"})
			return fmt.Errorf("%w: the node on %s ended by itself; its last words are in its log", ErrNotWhole, h.Name)
		}
	}
	return nil
}

// wait lets time pass, doing something meanwhile if there is something to do.
func wait(ctx context.Context, d time.Duration, meanwhile func() error) error {
	timer := time.NewTimer(max(0, d))
	defer timer.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
			if meanwhile == nil {
				continue
			}
			if err := meanwhile(); err != nil {
				return err
			}
		}
	}
}
