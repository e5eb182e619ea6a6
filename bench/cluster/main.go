// Command cluster measures whole nodes on virtual hosts: how long three blank ones
// take to be a cluster, what they use when nothing happens, and how long one that was cut
// off takes to be back. It is the section "cluster" of the bench. Nothing imports it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"time"

	"kontiki/bench/lab"
	"kontiki/bench/report"
	"kontiki/bench/section"
)

// extent is how much is measured.
type extent struct {
	births int
	settle time.Duration // before idleness is measured: starts leave some work behind
	idle   time.Duration
	cuts   int
	cut    time.Duration // how long a node is cut off each time
}

var extents = map[string]extent{
	"quick":  {births: 1, settle: 5 * time.Second, idle: 15 * time.Second, cuts: 1, cut: 10 * time.Second},
	"normal": {births: 7, settle: 30 * time.Second, idle: 2 * time.Minute, cuts: 3, cut: 30 * time.Second},
	"long":   {births: 15, settle: time.Minute, idle: 10 * time.Minute, cuts: 9, cut: 30 * time.Second},
}

const nodes = 3

func main() {
	bin := flag.String("bin", "bin", "directory with the program kontiki")
	section.Main(extents, func(ctx context.Context, e extent, out *report.Report) error { return run(ctx, *bin, e, out) })
}

func run(ctx context.Context, bin string, e extent, out *report.Report) (err error) {
	l, err := lab.New(bin, "bench")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Down()) }()
	var formed, ready []time.Duration
	for i := range e.births {
		if i > 0 {
			if err := l.Down(); err != nil {
				return err
			}
		}
		b, err := l.Up(ctx, nodes)
		if err != nil {
			return err
		}
		formed, ready = append(formed, b.Formed), append(ready, b.Ready)
	}
	if err := errors.Join(
		out.Add(birth("one cluster formed", formed, "≤ 1.5 s")),
		out.Add(birth("all Ready", ready, "≤ 3 s")),
	); err != nil {
		return err
	}
	if err := measureIdle(ctx, l, e, out); err != nil {
		return err
	}
	return measureHealing(ctx, l, e, out)
}

func birth(until string, took []time.Duration, target string) report.Row {
	slices.Sort(took)
	return report.Row{
		What:  fmt.Sprintf("%d blank nodes started until %s, median of %d", nodes, until, len(took)),
		Value: took[len(took)/2].Seconds(), Unit: "s", Target: target,
		Detail: fmt.Sprintf("worst %.2f s", took[len(took)-1].Seconds()),
	}
}

// measureIdle looks at nodes to which nothing happens.
func measureIdle(ctx context.Context, l *lab.Lab, e extent, out *report.Report) error {
	hosts, err := l.Hosts(ctx)
	if err != nil {
		return err
	}
	if err := section.Pause(ctx, e.settle); err != nil {
		return err
	}
	before, began := map[string]lab.Use{}, time.Now()
	for _, h := range hosts {
		if before[h.Name], err = l.Use(h.Name); err != nil {
			return err
		}
	}
	if err := section.Pause(ctx, e.idle); err != nil {
		return err
	}
	took := time.Since(began)
	now, err := l.Hosts(ctx)
	if err != nil {
		return err
	}
	leader := now[0].Leader
	if leader != hosts[0].Leader {
		return fmt.Errorf("the leader changed from %s to %s while nothing happened", hosts[0].Leader, leader)
	}
	var written uint64
	var leads, follows float64
	var largest lab.Use
	for _, h := range hosts {
		u, err := l.Use(h.Name)
		if err != nil {
			return err
		}
		share := 100 * float64(u.CPU-before[h.Name].CPU) / float64(took)
		if h.Name == leader {
			leads = share
		} else {
			follows = max(follows, share)
		}
		written += u.Written - before[h.Name].Written
		largest.Memory.RSS = max(largest.Memory.RSS, u.Memory.RSS)
		largest.Memory.Anonymous = max(largest.Memory.Anonymous, u.Memory.Anonymous)
	}
	span := took.Round(time.Second)
	return errors.Join(
		out.Add(report.Row{What: fmt.Sprintf("CPU of an idle follower, of a core, over %v", span), Value: follows, Unit: "%", Target: "< 1 %"}),
		out.Add(report.Row{What: fmt.Sprintf("CPU of the idle leader, of a core, over %v", span), Value: leads, Unit: "%", Target: "< 2 %"}),
		out.Add(report.Row{What: fmt.Sprintf("written to disk by %d idle nodes in %v", len(hosts), span), Value: float64(written), Unit: "bytes", Target: "= 0 bytes"}),
		out.Add(report.Row{What: "resident memory of an idle node, all its processes", Value: largest.Memory.RSS, Unit: "MB", Target: "≤ 180 MB"}),
		out.Add(report.Row{What: "anonymous memory of an idle node, all its processes", Value: largest.Memory.Anonymous, Unit: "MB", Target: "≤ 100 MB"}),
	)
}

// measureHealing cuts each node in turn off from the others, and looks when all see each other
// again: from then on Services lead everywhere, and every API takes writes.
func measureHealing(ctx context.Context, l *lab.Lab, e extent, out *report.Report) error {
	hosts, err := l.Hosts(ctx)
	if err != nil {
		return err
	}
	var took []time.Duration
	for i := range e.cuts {
		alone := hosts[i%len(hosts)].Name
		var rest []string
		for _, h := range hosts {
			if h.Name != alone {
				rest = append(rest, h.Name)
			}
		}
		if err := l.Partition(ctx, alone+"|"+strings.Join(rest, ",")); err != nil {
			return err
		}
		if err := section.Pause(ctx, e.cut); err != nil {
			return err
		}
		if s, err := l.Sees(ctx, alone); err != nil {
			return err
		} else if whole(s) {
			return fmt.Errorf("%s was cut off for %v and sees all of %+v", alone, e.cut, s)
		}
		if err := l.Heal(ctx); err != nil {
			return err
		}
		healed := time.Now()
		for _, h := range hosts {
			if err := awaitWhole(ctx, l, h.Name); err != nil {
				return err
			}
		}
		took = append(took, time.Since(healed))
	}
	row := birth("", took, "≤ 3 s")
	row.What = fmt.Sprintf("a node cut off for %v: healed until all see each other and one leader, median of %d", e.cut, len(took))
	return out.Add(row)
}

// whole says whether a node sees all members alive, and a leader.
func whole(s lab.Sight) bool {
	alive := 0
	for _, m := range s.Members {
		if m.Health == "alive" {
			alive++
		}
	}
	return alive == nodes && s.Leader != ""
}

// awaitWhole returns once a host's node sees the whole cluster.
func awaitWhole(ctx context.Context, l *lab.Lab, host string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		s, err := l.Sees(ctx, host)
		if err == nil && whole(s) {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s sees %+v: %w", host, s, errors.Join(err, context.Cause(ctx)))
		}
	}
}
