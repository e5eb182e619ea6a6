package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"kontiki/bench/lab"
	"kontiki/bench/report"
	"kontiki/bench/section"
)

// measureHealing cuts each node in turn off from the others, and looks when all see each other
// again: from then on Services lead everywhere, and every API takes writes.
func measureHealing(ctx context.Context, l *lab.Lab, o options, out *report.Report) error {
	hosts, err := l.Hosts(ctx)
	if err != nil {
		return err
	}
	var took []time.Duration
	for i := range o.cuts {
		alone := hosts[i%len(hosts)].Name
		if err := l.Partition(ctx, alone+"|"+strings.Join(others(hosts, alone), ",")); err != nil {
			return err
		}
		if err := section.Pause(ctx, o.cut); err != nil {
			return err
		}
		if s, err := l.Sees(ctx, alone); err != nil {
			return err
		} else if whole(s) {
			return fmt.Errorf("%s was cut off for %v and sees all of %+v", alone, o.cut, s)
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
	return out.Add(spell(fmt.Sprintf("a node cut off for %v: healed until all see each other and one leader", o.cut), took, "≤ 3 s"))
}

// others are the names of all hosts but one.
func others(hosts []lab.Host, but string) (names []string) {
	for _, h := range hosts {
		if h.Name != but {
			names = append(names, h.Name)
		}
	}
	return names
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
