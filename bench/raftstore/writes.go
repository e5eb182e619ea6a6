package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"kontiki/bench/load"
	"kontiki/bench/report"
	"kontiki/raftstore"
)

const valueSize = 1024

// Drive has the writers on a follower, so that each write crosses the network to
// the leader, as an etcd client's does.
func (g *group) Drive(ctx context.Context, n int, length time.Duration) (load.Latencies, error) {
	leader, _, err := g.leader(ctx)
	if err != nil {
		return load.Latencies{}, err
	}
	a, err := g.tell(g.follower(leader), order{Do: "write", Writers: n, Size: valueSize, Length: length, Prefix: "w/"})
	return a.Latencies, err
}

// Drive spreads the writers over the members.
func (e *etcd) Drive(ctx context.Context, n int, length time.Duration) (load.Latencies, error) {
	return load.Drive(ctx, n, length, e.put), nil
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
	all := []load.Contender{g, wal}
	var peer *etcd
	if o.peer {
		if peer, err = newEtcd(ctx, filepath.Join(o.dir, "etcd")); err != nil {
			return fmt.Errorf("etcd: %w", err)
		}
		defer peer.close()
		all = append(all, peer)
	}
	for _, n := range []int{1, 16, 256} {
		scores, err := load.Contest(ctx, all, n, time.Duration(o.seconds)*time.Second)
		if err != nil {
			return err
		}
		for i, ours := range []*group{g, wal} {
			row := report.Row{
				What:  fmt.Sprintf("writes of 1 KiB, %s, %s (p50 / p99)", load.Count(n, "writer"), ours.log),
				Value: scores[i].PerSecond(), Unit: "/s", Detail: scores[i].Detail("write"), Target: writeTargets[ours.log][n],
			}
			if peer != nil {
				row.Peer = &report.Peer{Name: "etcd", Value: scores[2].PerSecond(), Detail: scores[2].Detail("write")}
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
