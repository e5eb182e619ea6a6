package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"kontiki/bench/report"
	"kontiki/raftstore"
)

const valueSize = 1024

// rounds is how often all take turns, so that they see the same moods of the machine.
const rounds = 4

// contender is a replicated store that takes writes.
type contender interface {
	// write has n writers write for some time.
	write(ctx context.Context, n int, length time.Duration) (latencies, error)
	// cpu is the CPU time that its processes, clients included, have used so far.
	cpu() (time.Duration, error)
}

// write has the writers on a follower, so that each write crosses the network to
// the leader, as an etcd client's does.
func (g *group) write(ctx context.Context, n int, length time.Duration) (latencies, error) {
	leader, _, err := g.leader(ctx)
	if err != nil {
		return latencies{}, err
	}
	a, err := g.tell(g.follower(leader), order{Do: "write", Writers: n, Size: valueSize, Length: length, Prefix: "w/"})
	return a.Latencies, err
}

func (e *etcd) write(ctx context.Context, n int, length time.Duration) (latencies, error) {
	return drive(ctx, n, length, e.put), nil
}

// score is what one contender did with one number of writers.
type score struct {
	latencies
	cpu time.Duration
}

func (s score) detail() string {
	text := fmt.Sprintf("%s / %s ms, CPU %d µs a write", ms(s.P50), ms(s.P99), s.cpu.Microseconds()/int64(max(s.Count, 1)))
	if s.Failed > 0 {
		text += fmt.Sprintf(", %d failed", s.Failed)
	}
	return text
}

// contest has all write, taking turns.
func contest(ctx context.Context, all []contender, writers int, length time.Duration) ([]score, error) {
	scores, parts := make([]score, len(all)), make([][]latencies, len(all))
	for range rounds {
		for i, c := range all {
			before, err := c.cpu()
			if err != nil {
				return nil, err
			}
			l, err := c.write(ctx, writers, length/rounds)
			if err != nil {
				return nil, err
			}
			after, err := c.cpu()
			if err != nil {
				return nil, err
			}
			scores[i].cpu += after - before
			parts[i] = append(parts[i], l)
		}
	}
	for i := range scores {
		scores[i].latencies = merge(parts[i])
	}
	return scores, nil
}

// writeTargets are the goals beside etcd, by number of writers.
var writeTargets = map[raftstore.LogStore]map[int]string{
	raftstore.LogBolt: {16: "≥ 1 ×", 256: "≥ 2 ×"},
	raftstore.LogWAL:  {16: "≥ 1.5 ×", 256: "≥ 3 ×"},
}

// measureWrites compares both log stores and etcd.
func measureWrites(ctx context.Context, o options, g *group, out *report.Report) (err error) {
	wal, err := newGroup(filepath.Join(o.dir, "wal"), o.profile, raftstore.LogWAL)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, wal.close()) }()
	all := []contender{g, wal}
	var peer *etcd
	if o.peer {
		if peer, err = newEtcd(ctx, filepath.Join(o.dir, "etcd")); err != nil {
			return fmt.Errorf("etcd: %w", err)
		}
		defer peer.close()
		all = append(all, peer)
	}
	for _, n := range []int{1, 16, 256} {
		scores, err := contest(ctx, all, n, time.Duration(o.seconds)*time.Second)
		if err != nil {
			return err
		}
		for i, ours := range []*group{g, wal} {
			row := report.Row{
				What:  fmt.Sprintf("writes of 1 KiB, %s, %s (p50 / p99)", count(n, "writer"), ours.log),
				Value: scores[i].perSecond(), Unit: "/s", Detail: scores[i].detail(), Target: writeTargets[ours.log][n],
			}
			if peer != nil {
				row.Peer = &report.Peer{Name: "etcd", Value: scores[2].perSecond(), Detail: scores[2].detail()}
			}
			if err := out.Add(row); err != nil {
				return err
			}
		}
	}
	return measureMemory(ctx, g, peer, out)
}

func measureMemory(ctx context.Context, g *group, peer *etcd, out *report.Report) error {
	leader, _, err := g.leader(ctx)
	if err != nil {
		return err
	}
	a, err := g.tell(leader, order{Do: "status"})
	if err != nil {
		return err
	}
	row := report.Row{What: "resident memory of the leader after them", Value: a.RSS, Unit: "MB"}
	if peer != nil {
		memory, err := peer.memory()
		if err != nil {
			return err
		}
		row.Peer = &report.Peer{Name: "etcd", Value: memory}
	}
	return out.Add(row)
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func ms(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d)/1e6) }

// inMS is a duration as rows have it.
func inMS(d time.Duration) float64 { return float64(d) / 1e6 }
