package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"kontiki/bench/lab"
	"kontiki/bench/peer"
	"kontiki/bench/proc"
	"kontiki/bench/report"
	"kontiki/bench/section"
)

// measureIdle looks at nodes to which nothing happens, and at upstream's control plane, beside
// them and as idle.
func measureIdle(ctx context.Context, l *lab.Lab, o options, out *report.Report) (err error) {
	hosts, err := l.Hosts(ctx)
	if err != nil {
		return err
	}
	all := []*idler{}
	for _, h := range hosts {
		all = append(all, &idler{name: h.Name, look: func() (proc.Total, error) { return l.Use(h.Name) }})
	}
	if o.peer {
		p, serr := peer.StartControlPlane(ctx, o.bin)
		if serr != nil {
			return serr
		}
		defer func() { err = errors.Join(err, p.Close()) }()
		all = append(all, &idler{name: peer.ControlPlaneName, look: func() (proc.Total, error) { return proc.TotalOf(p.Processes()) }})
	}
	took, err := idle(ctx, o, all)
	if err != nil {
		return err
	}
	now, err := l.Hosts(ctx)
	if err != nil {
		return err
	}
	leader := now[0].Leader
	if leader != hosts[0].Leader {
		return fmt.Errorf("the leader changed from %s to %s while nothing happened", hosts[0].Leader, leader)
	}
	var leads, follows, written float64
	var largest proc.Use
	for _, n := range all[:len(hosts)] {
		if n.name == leader {
			leads = n.share(took)
		} else {
			follows = max(follows, n.share(took))
		}
		written += n.written()
		largest.RSS = max(largest.RSS, n.after.Memory.RSS)
		largest.Anonymous = max(largest.Anonymous, n.after.Memory.Anonymous)
	}
	row := func(what string, value float64, unit, target string, of func(*idler) float64) error {
		r := report.Row{What: what, Value: value, Unit: unit, Target: target}
		if o.peer {
			p := all[len(hosts)]
			r.Peer = &report.Peer{Name: p.name, Value: of(p)}
		}
		return out.Add(r)
	}
	share := func(n *idler) float64 { return n.share(took) }
	span := took.Round(time.Second)
	return errors.Join(
		row(fmt.Sprintf("CPU of an idle follower, of a core, over %v", span), follows, "%", "< 1 %", share),
		row(fmt.Sprintf("CPU of the idle leader, of a core, over %v", span), leads, "%", "< 2 %", share),
		row(fmt.Sprintf("written to disk by %d idle nodes in %v", len(hosts), span), written, "bytes", "= 0 bytes", (*idler).written),
		row("resident memory of an idle node, all its processes", largest.RSS, "MB", "≤ 180 MB", func(n *idler) float64 { return n.after.Memory.RSS }),
		row("anonymous memory of an idle node, all its processes", largest.Anonymous, "MB", "≤ 100 MB", func(n *idler) float64 { return n.after.Memory.Anonymous }),
	)
}

// idler is a group of processes to which nothing happens.
type idler struct {
	name          string
	look          func() (proc.Total, error)
	before, after proc.Total
}

// share is what they had of one core, in %.
func (n *idler) share(took time.Duration) float64 {
	return 100 * float64(n.after.CPU-n.before.CPU) / float64(took)
}

// written is what they caused to be written meanwhile, in bytes.
func (n *idler) written() float64 { return float64(n.after.Written - n.before.Written) }

// idle lets all of them settle and looks at them before and after some time.
func idle(ctx context.Context, o options, all []*idler) (took time.Duration, err error) {
	if err := section.Pause(ctx, o.settle); err != nil {
		return 0, err
	}
	began := time.Now()
	for _, n := range all {
		if n.before, err = n.look(); err != nil {
			return 0, err
		}
	}
	if err := section.Pause(ctx, o.idle); err != nil {
		return 0, err
	}
	took = time.Since(began)
	for _, n := range all {
		if n.after, err = n.look(); err != nil {
			return 0, err
		}
	}
	return took, nil
}
