package raftstore_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"kontiki/raftstore"
	"kontiki/raftstore/raftstoretest"
)

// often has replicas look at themselves, and the leader at all of them, all the time.
func often(cfg *raftstore.Config) {
	cfg.ScrubEvery, cfg.CompareEvery = 20*time.Millisecond, 20*time.Millisecond
}

// compares has the leader compare all the time, and nobody look at itself.
func compares(cfg *raftstore.Config) {
	cfg.ScrubEvery, cfg.CompareEvery = time.Hour, 20*time.Millisecond
}

func fill(t *testing.T, s *raftstore.Store, keys int) {
	t.Helper()
	for i := range keys {
		mustApply(t, s, put(fmt.Sprintf("k%d", i), fmt.Sprintf("value %d", i)))
	}
}

// settled waits until all stores have applied all that was acknowledged, which one tells.
func settled(t *testing.T, c *raftstoretest.Cluster, of *raftstore.Store) {
	t.Helper()
	all, err := of.Linearize(bounded(t)) // a write is acknowledged before its own node shows it
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range c.Stores {
		if s != nil {
			if _, err := s.WaitRevision(bounded(t), all.Revision()); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// holds checks that a store is trusted and holds what fill wrote.
func holds(t *testing.T, s *raftstore.Store, keys int) {
	t.Helper()
	if err := s.Err(); err != nil {
		t.Fatalf("the store does not serve: %v", err)
	}
	for i := range keys {
		if kv, _ := s.View().Get(fmt.Sprintf("k%d", i)); string(kv.Value) != fmt.Sprintf("value %d", i) {
			t.Errorf("k%d holds %q", i, kv.Value)
		}
	}
	if err := s.Scrub(); err != nil {
		t.Error(err)
	}
}

func refilled(s *raftstore.Store) func() bool {
	return func() bool { st := s.Status(); return st.Refills == 1 && st.Damaged.IsZero() }
}

// A bit that changes in memory is noticed by the replica itself; it refills itself, and
// whoever watched it has to begin anew.
func TestFlippedMemory(t *testing.T) {
	for _, who := range []string{"follower", "leader"} {
		t.Run(who, func(t *testing.T) {
			c := raftstoretest.NewCluster(t, 3, often)
			leader := c.Leader()
			s, other := c.Stores[leader], c.Stores[(leader+2)%3]
			if who == "follower" {
				s = c.Stores[(leader+1)%3]
			}
			fill(t, s, 20)
			settled(t, c, s)
			w, err := s.Watch("k", s.View().Revision())
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			raftstore.BreakMemory(s, "k7", false)
			c.Eventually("the replica to be refilled", refilled(s))
			holds(t, s, 20)
			if _, _, err := w.Next(bounded(t)); !errors.Is(err, raftstore.ErrCompacted) {
				t.Errorf("a watch of before goes on: %v", err)
			}
			mustApply(t, other, put("after", "v"))
			settled(t, c, other)
			holds(t, s, 20)
		})
	}
}

// A replica that holds something else than the majority learns of it from the leader; a
// leader steps down first. What it had on disk is not trusted either.
func TestReplicasThatDiffer(t *testing.T) {
	for _, step := range []struct {
		nodes   int
		differ  []int // relative to the leader
		refills []int
	}{
		{3, []int{1}, []int{1}},
		{3, []int{0}, []int{0}},
		{5, []int{1, 3}, []int{1, 3}},
		{5, []int{0, 2}, []int{0, 2}},
	} {
		t.Run(fmt.Sprintf("%d nodes, %v differ", step.nodes, step.differ), func(t *testing.T) {
			c := raftstoretest.NewCluster(t, step.nodes, compares)
			leader := c.Leader()
			fill(t, c.Stores[leader], 20)
			settled(t, c, c.Stores[leader])
			for i, d := range step.differ {
				s := c.Stores[(leader+d)%step.nodes]
				raftstore.BreakMemory(s, fmt.Sprintf("k%d", i), true)
				if err := s.Snapshot(); err != nil && !errors.Is(err, raftstore.ErrDiffers) { // as it may have been, before anybody noticed
					t.Fatal(err)
				}
			}
			right := 0 // the first who holds what most do; the others answer with errors as soon as they are told
			for contains(step.differ, right) {
				right++
			}
			mustApply(t, c.Stores[(leader+right)%step.nodes], put("more", "v"))
			for _, d := range step.refills {
				c.Eventually(fmt.Sprintf("replica %d to be refilled", d), refilled(c.Stores[(leader+d)%step.nodes]))
			}
			settled(t, c, c.Stores[c.Leader()])
			for i, s := range c.Stores {
				holds(t, s, 20)
				if n := s.Status().Refills; n > 0 != contains(step.refills, (i-leader+step.nodes)%step.nodes) {
					t.Errorf("node %d was refilled %d times", i, n)
				}
			}
			at := (leader + step.differ[0]) % step.nodes
			c.Stop(at)
			holds(t, c.Start(at), 20) // before it has heard of anybody
		})
	}
}

func contains(list []int, n int) bool {
	for _, v := range list {
		if v == n {
			return true
		}
	}
	return false
}

// Where all three differ, nobody can say who is right: it is told, and nothing is thrown away.
func TestNoMajority(t *testing.T) {
	c := raftstoretest.NewCluster(t, 3)
	leader := c.Leader()
	fill(t, c.Stores[leader], 3)
	settled(t, c, c.Stores[leader])
	raftstore.BreakMemory(c.Stores[0], "k0", true)
	raftstore.BreakMemory(c.Stores[1], "k1", true)
	c.Stores[leader].CompareNow()
	if c.Stores[leader].Status().Unclear == "" {
		t.Error("the leader does not tell that replicas differ")
	}
	for i, s := range c.Stores {
		if err := s.Err(); err != nil || s.Status().Refills > 0 {
			t.Errorf("node %d: %v, refilled %d times", i, err, s.Status().Refills)
		}
	}
}

// The two of three whose memory is broken find that out by themselves, though they are the majority.
func TestBrokenMajorityFindsItself(t *testing.T) {
	c := raftstoretest.NewCluster(t, 3, often)
	leader := c.Leader()
	fill(t, c.Stores[leader], 20)
	settled(t, c, c.Stores[leader])
	broken := []*raftstore.Store{c.Stores[leader], c.Stores[(leader+1)%3]}
	for _, s := range broken {
		raftstore.BreakMemory(s, "k3", false)
	}
	for _, s := range broken {
		c.Eventually("both to be refilled", refilled(s))
		holds(t, s, 20)
	}
}

// A node alone has its disk to refill itself from, on which entries and snapshots have checksums.
func TestFlippedMemoryOfOne(t *testing.T) {
	for _, snapshot := range []bool{false, true} {
		s := raftstoretest.New(t, often)
		fill(t, s, 10)
		if snapshot {
			if err := s.Snapshot(); err != nil {
				t.Fatal(err)
			}
			mustApply(t, s, put("k3", "value 3"))
		}
		raftstore.BreakMemory(s, "k3", false)
		raftstoretest.Eventually(t, "the replica to be refilled", refilled(s))
		holds(t, s, 10)
		mustApply(t, s, put("k10", "value 10"))
		holds(t, s, 11)
	}
}

// While a replica is in doubt it answers nobody; the others go on.
func TestDamagedReplicaIsNotRead(t *testing.T) {
	c := raftstoretest.NewCluster(t, 3, compares)
	leader := c.Leader()
	at := (leader + 1) % 3
	s := c.Stores[at]
	fill(t, s, 5)
	settled(t, c, s)
	c.Isolate(at) // it finds nobody to be refilled from
	w, err := s.Watch("k", s.View().Revision())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	raftstore.BreakMemory(s, "k2", false)
	if err := s.Snapshot(); err == nil { // a snapshot shows it, as the scrub does
		t.Error("the damage was written to disk")
	}
	for what, try := range map[string]func() error{
		"Linearize":    func() error { _, err := s.Linearize(bounded(t)); return err },
		"ViewAt":       func() error { _, err := s.ViewAt(bounded(t), s.View().Revision()); return err },
		"WaitRevision": func() error { _, err := s.WaitRevision(bounded(t), 1); return err },
		"Watch":        func() error { _, err := s.Watch("k", s.View().Revision()); return err },
		"Next":         func() error { _, _, err := w.Next(bounded(t)); return err },
		"Apply":        func() error { _, err := s.Apply(bounded(t), put("k", "v")); return err },
		"Err":          s.Err,
	} {
		if err := try(); !errors.Is(err, raftstore.ErrDiffers) {
			t.Errorf("%s: %v", what, err)
		}
	}
	mustApply(t, c.Stores[leader], put("meanwhile", "v"))
	c.Rejoin(at)
	if err := s.AwaitServing(bounded(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Linearize(bounded(t)); err != nil {
		t.Fatal(err)
	}
	holds(t, s, 5)
}

// Replicas that have applied the same have one digest, however they came to it.
func TestDigestsAgree(t *testing.T) {
	c := raftstoretest.NewCluster(t, 3, func(cfg *raftstore.Config) { cfg.TrailingLogs = 1 })
	leader := c.Leader()
	fill(t, c.Stores[leader], 30)
	mustApply(t, c.Stores[leader], raftstore.Txn{Ops: []raftstore.Op{{Kind: raftstore.OpPut, Key: "lease", Value: []byte("v"), TTL: time.Hour}}})
	mustApply(t, c.Stores[leader], raftstore.Txn{Ops: []raftstore.Op{{Kind: raftstore.OpDelete, Key: "k4"}}})
	mustApply(t, c.Stores[leader], raftstore.Txn{Compares: []raftstore.Compare{{Key: "k5", ModRevision: 0}}})
	settled(t, c, c.Stores[leader])
	at := (leader + 1) % 3
	c.Stop(at)
	c.Start(at) // from its log
	if err := c.Stores[leader].Snapshot(); err != nil {
		t.Fatal(err)
	}
	late := c.Add() // from a snapshot
	if err := c.Stores[leader].AddNonvoter(bounded(t), raftstoretest.NodeID(late)); err != nil {
		t.Fatal(err)
	}
	mustApply(t, c.Stores[at], put("last", "v"))
	c.Eventually("all digests to be the same", func() bool {
		index, digest := c.Stores[leader].Digest()
		for _, s := range c.Stores {
			if i, d := s.Digest(); i != index || d != digest {
				return false
			}
		}
		return true
	})
}
