package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"syscall"
	"time"
)

const valueSize = 1024

func ms(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d)/1e6) }

func describe(l latencies) string {
	s := fmt.Sprintf("%.0f/s (%s / %s ms)", l.perSecond(), ms(l.P50), ms(l.P99))
	if l.Failed > 0 {
		s += fmt.Sprintf(", %d failed", l.Failed)
	}
	return s
}

// rounds is how often ours and theirs take turns, so that both see the same
// moods of the machine.
const rounds = 4

// measureWrites has writers on a follower, so that each write crosses the
// network to the leader, as an etcd client's does.
func measureWrites(ctx context.Context, o options, g *group, t *table) error {
	leader, _, err := g.leader(ctx)
	if err != nil {
		return err
	}
	var peer *etcd
	if o.peer {
		if peer, err = newEtcd(ctx, o.dir); err != nil {
			return fmt.Errorf("etcd: %w", err)
		}
		defer peer.close()
	}
	targets := map[int]string{16: "≥ 1 ×", 256: "≥ 2 ×"}
	length := time.Duration(o.seconds) * time.Second / rounds
	for _, n := range []int{1, 16, 256} {
		var ours, theirs []latencies
		for range rounds {
			a, err := g.tell(g.follower(leader), order{Do: "write", Writers: n, Size: valueSize, Length: length, Prefix: "w/"})
			if err != nil {
				return err
			}
			ours = append(ours, a.Latencies)
			if peer != nil {
				theirs = append(theirs, drive(ctx, n, length, peer.put))
			}
		}
		our, other, ratio := merge(ours), "", ""
		if peer != nil {
			their := merge(theirs)
			other, ratio = describe(their), fmt.Sprintf("%.2f ×", our.perSecond()/their.perSecond())
		}
		t.row(fmt.Sprintf("writes of 1 KiB, %d writers (p50 / p99)", n), targets[n], describe(our), other, ratio)
	}
	a, err := g.tell(leader, order{Do: "status"})
	if err != nil {
		return err
	}
	memory := ""
	if peer != nil {
		if memory, err = peer.memory(); err != nil {
			return err
		}
	}
	t.row("RSS of the leader after them", "", fmt.Sprintf("%d MiB", a.RSS/1024), memory, "")
	return nil
}

// measureLag compares the times at which the leader and its followers show a
// revision to a watch.
func measureLag(ctx context.Context, o options, g *group, t *table) error {
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
		if err := wait(ctx, "the follower to see everything", func() (bool, error) {
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
	l := summarize(lags, time.Second, 0)
	t.row("commit on the leader to apply on a follower (p50 / p99)", "p99 ≤ 5 ms", fmt.Sprintf("%s / %s ms", ms(l.P50), ms(l.P99)), "", "")
	return nil
}

func measureFanout(ctx context.Context, o options, g *group, t *table) error {
	leader, _, err := g.leader(ctx)
	if err != nil {
		return err
	}
	a, err := g.tell(g.follower(leader), order{Do: "fanout", Writers: o.watchers, Many: 200, Size: valueSize, Prefix: "fan/"})
	if err != nil {
		return err
	}
	t.row(fmt.Sprintf("write on a follower to %d watches there (p50 / p99)", o.watchers), "",
		fmt.Sprintf("%s / %s ms", ms(a.Latencies.P50), ms(a.Latencies.P99)), "", "")
	return nil
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
		if err := wait(ctx, "writes on "+id, func() (bool, error) {
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
func measureFailover(ctx context.Context, o options, g *group, t *table) error {
	var gaps []time.Duration
	terms := 0
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
			if err := wait(ctx, "writes after the kill on "+id, func() (bool, error) {
				a, err := g.tell(id, order{Do: "peek"})
				longest = max(longest, a.Gap)
				return a.Acks >= 200 && a.Gap > 0, err
			}); err != nil {
				return err
			}
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
	l := summarize(gaps, time.Second, 0)
	t.row(fmt.Sprintf("gap of acknowledged writes at %d killed leaders (median / worst)", len(gaps)), "≤ 500 / ≤ 1500 ms",
		fmt.Sprintf("%s / %s ms, %d terms", ms(l.P50), ms(l.Max), terms), "", "")
	return nil
}

// caughtUp waits until all replicas have the revision that one has now.
func (g *group) caughtUp(ctx context.Context, with string) error {
	a, err := g.tell(with, order{Do: "status"})
	if err != nil {
		return err
	}
	return wait(ctx, "all replicas to catch up", func() (bool, error) {
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
func measureStarved(ctx context.Context, o options, g *group, t *table) error {
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
	t.row(fmt.Sprintf("elections in %d s of a starved CPU", o.starve), "0", fmt.Sprint(after-before), "", "")
	return nil
}

func measureRestart(ctx context.Context, o options, g *group, t *table) error {
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
	t.row("snapshot of "+what, "", ms(snapshot)+" ms", "", "")
	t.row("start with "+what, "", ms(took)+" ms", "", "")
	t.row("RSS after the start with "+what, "", fmt.Sprintf("%d MiB", a.RSS/1024), "", "")
	return nil
}
