package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"syscall"
	"time"

	"kontiki/bench/load"
	"kontiki/bench/peer"
	"kontiki/bench/report"
)

// measureLag compares the times at which the leader and its followers show a
// revision to a watch.
func measureLag(ctx context.Context, o options, g *group, out *report.Report) error {
	leader, _, err := g.leader(ctx)
	if err != nil {
		return err
	}
	for _, id := range ids {
		if _, err := g.tell(id, order{Do: "observe", Prefix: "lag/"}); err != nil {
			return err
		}
	}
	for n := range 500 { // one at a time: nothing follows that would carry the commit
		if _, err := g.tell(leader, order{Do: "fill", Writers: 1, Many: 1, Size: valueSize, Prefix: fmt.Sprintf("lag/%d/", n)}); err != nil {
			return err
		}
	}
	if _, err := g.tell(leader, order{Do: "hush"}); err != nil {
		return err
	}
	at, err := g.tell(leader, order{Do: "observed"})
	if err != nil {
		return err
	}
	var lags []time.Duration
	for _, id := range ids {
		if id == leader {
			continue
		}
		var seen map[uint64]int64
		if err := peer.Wait(ctx, "the follower to see everything", func() (bool, error) {
			a, err := g.tell(id, order{Do: "observed"})
			if seen == nil {
				seen = a.Seen
			}
			for rev, t := range a.Seen {
				seen[rev] = t
			}
			return len(seen) >= len(at.Seen), err
		}); err != nil {
			return err
		}
		if _, err := g.tell(id, order{Do: "hush"}); err != nil {
			return err
		}
		for rev, there := range seen {
			if here, ok := at.Seen[rev]; ok {
				lags = append(lags, time.Duration(there-here))
			}
		}
	}
	l := load.Summarize(lags, time.Second, 0)
	return out.Add(report.Row{
		What: "commit on the leader to apply on a follower, p99", Value: load.MS(l.P99), Unit: "ms", Detail: "p50 " + load.InMS(l.P50), Target: "≤ 5 ms",
	})
}

func measureFanout(ctx context.Context, o options, g *group, out *report.Report) error {
	leader, _, err := g.leader(ctx)
	if err != nil {
		return err
	}
	a, err := g.tell(g.follower(leader), order{Do: "fanout", Writers: o.watchers, Many: 200, Size: valueSize, Prefix: "fan/"})
	if err != nil {
		return err
	}
	return out.Add(report.Row{
		What:  fmt.Sprintf("write on a follower until %d watches there have it, p99", o.watchers),
		Value: load.MS(a.Latencies.P99), Unit: "ms", Detail: "p50 " + load.InMS(a.Latencies.P50),
	})
}

// hammerAll has every running replica write and waits until all get through.
func hammerAll(ctx context.Context, g *group) error {
	for _, id := range g.running() {
		if _, err := g.tell(id, order{Do: "hammer", Writers: 5, Size: 128, Prefix: "h/" + id + "/"}); err != nil {
			return err
		}
	}
	return acked(ctx, g, 100)
}

// acked waits until each running replica has had some acknowledgements from now on.
func acked(ctx context.Context, g *group, n int) error {
	for _, id := range g.running() {
		if _, err := g.tell(id, order{Do: "gap"}); err != nil {
			return err
		}
		if err := peer.Wait(ctx, "writes on "+id, func() (bool, error) {
			a, err := g.tell(id, order{Do: "peek"})
			return a.Acks >= n, err
		}); err != nil {
			return err
		}
	}
	return nil
}

func hushAll(g *group) error {
	for _, id := range g.running() {
		if _, err := g.tell(id, order{Do: "hush"}); err != nil {
			return err
		}
	}
	return nil
}

// measureFailover kills the leader, again and again, under writers on the others.
func measureFailover(ctx context.Context, o options, g *group, out *report.Report) error {
	var gaps []time.Duration
	terms, failed := 0, 0
	for range o.kills {
		leader, term, err := g.leader(ctx)
		if err != nil {
			return err
		}
		if err := hammerAll(ctx, g); err != nil {
			return err
		}
		for _, id := range g.running() { // begin anew
			if _, err := g.tell(id, order{Do: "gap"}); err != nil {
				return err
			}
		}
		if err := g.kill(leader); err != nil {
			return err
		}
		next, after, err := g.leader(ctx)
		if err != nil {
			return err
		}
		terms += int(after - term)
		var longest time.Duration
		for _, id := range g.running() {
			var seen tally
			if err := peer.Wait(ctx, "writes after the kill on "+id, func() (bool, error) {
				a, err := g.tell(id, order{Do: "peek"})
				seen = a.tally
				longest = max(longest, a.Gap)
				return a.Acks >= 200 && a.Gap > 0, err
			}); err != nil {
				return err
			}
			failed += seen.Failed
		}
		gaps = append(gaps, longest)
		if err := hushAll(g); err != nil {
			return err
		}
		if err := g.start(leader); err != nil {
			return err
		}
		if err := g.caughtUp(ctx, next); err != nil {
			return err
		}
	}
	slices.Sort(gaps)
	l := load.Summarize(gaps, time.Second, 0)
	what := fmt.Sprintf("gap of acknowledged writes at %d killed leaders", len(gaps))
	return errors.Join(
		out.Add(report.Row{What: what + ", median", Value: load.MS(l.P50), Unit: "ms", Target: "≤ 500 ms"}),
		out.Add(report.Row{What: what + ", worst", Value: load.MS(l.Max), Unit: "ms", Detail: fmt.Sprintf("%d terms", terms), Target: "≤ 1500 ms"}),
		out.Add(report.Row{What: fmt.Sprintf("writes that failed through the others at %d killed leaders", len(gaps)), Value: float64(failed), Unit: "writes", Target: "= 0 writes"}),
	)
}

// caughtUp waits until all replicas have the revision that one has now.
func (g *group) caughtUp(ctx context.Context, with string) error {
	a, err := g.tell(with, order{Do: "status"})
	if err != nil {
		return err
	}
	return peer.Wait(ctx, "all replicas to catch up", func() (bool, error) {
		for _, id := range g.running() {
			b, err := g.tell(id, order{Do: "status"})
			if err != nil || b.Revision < a.Revision {
				return false, err
			}
		}
		return true, nil
	})
}

// measureStarved burns twice the CPUs that there are, with a few writers.
func measureStarved(ctx context.Context, o options, g *group, out *report.Report) error {
	_, before, err := g.leader(ctx)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for range 2 * runtime.NumCPU() {
		cmd := exec.Command(self, "-spin")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			return err
		}
		defer func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}()
	}
	if err := hammerAll(ctx, g); err != nil {
		return err
	}
	select {
	case <-time.After(time.Duration(o.starve) * time.Second):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := hushAll(g); err != nil {
		return err
	}
	_, after, err := g.leader(ctx)
	if err != nil {
		return err
	}
	return out.Add(report.Row{
		What: fmt.Sprintf("elections in %d s of a starved CPU", o.starve), Value: float64(after - before), Unit: "elections", Target: "= 0 elections",
	})
}

func measureRestart(ctx context.Context, o options, g *group, out *report.Report) error {
	leader, _, err := g.leader(ctx)
	if err != nil {
		return err
	}
	if _, err := g.tell(leader, order{Do: "fill", Writers: 256, Many: o.keys, Size: valueSize, Prefix: "keys/"}); err != nil {
		return err
	}
	id := g.follower(leader)
	if err := g.caughtUp(ctx, leader); err != nil {
		return err
	}
	began := time.Now()
	if _, err := g.tell(id, order{Do: "snapshot"}); err != nil {
		return err
	}
	snapshot := time.Since(began)
	if err := g.stop(id); err != nil {
		return err
	}
	began = time.Now()
	if err := g.start(id); err != nil {
		return err
	}
	a, err := g.tell(id, order{Do: "status"}) // answered once the store is open
	if err != nil {
		return err
	}
	took := time.Since(began)
	if err := g.caughtUp(ctx, leader); err != nil {
		return err
	}
	what := fmt.Sprintf("%d keys of 1 KiB", o.keys)
	return errors.Join(
		out.Add(report.Row{What: "snapshot of " + what, Value: load.MS(snapshot), Unit: "ms"}),
		out.Add(report.Row{What: "start with " + what, Value: load.MS(took), Unit: "ms"}),
		out.Add(report.Row{What: "resident memory after the start with " + what, Value: a.RSS, Unit: "MB"}),
	)
}
