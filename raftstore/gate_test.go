package raftstore_test

import (
	"strings"
	"sync"
	"testing"

	"kontiki/raftstore"
	"kontiki/raftstore/raftstoretest"
)

// programs says which version of commands each node's program knows.
type programs struct {
	mu    sync.Mutex
	knows map[string]int // 1 where nothing is said
}

func (p *programs) install(node, version int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.knows == nil {
		p.knows = map[string]int{}
	}
	p.knows[raftstoretest.NodeID(node)] = version
}

func (p *programs) option(cfg *raftstore.Config) {
	p.mu.Lock()
	defer p.mu.Unlock()
	raftstore.WithCommandVersion(cfg, max(p.knows[cfg.NodeID], 1))
}

// upgrade restarts a node with another program.
func (p *programs) upgrade(c *raftstoretest.Cluster, node, version int) {
	c.Stop(node)
	p.install(node, version)
	c.Start(node)
}

// lead makes a node the leader.
func lead(t *testing.T, c *raftstoretest.Cluster, node int) {
	t.Helper()
	c.Eventually("the node to lead", func() bool {
		at := c.Leader()
		if at == node {
			return true
		}
		_ = c.Stores[at].TransferTo(raftstoretest.NodeID(node))
		return false
	})
}

// everyWrite writes through every node and reads it on every other.
func everyWrite(t *testing.T, c *raftstoretest.Cluster, key string) {
	t.Helper()
	for i, s := range c.Stores {
		if s == nil {
			continue
		}
		r := mustApply(t, s, put(key, raftstoretest.NodeID(i)))
		for j, other := range c.Stores {
			if other == nil {
				continue
			}
			if _, err := other.WaitRevision(bounded(t), r.Revision); err != nil {
				t.Fatalf("node %d does not get what node %d wrote: %v", j, i, err)
			}
		}
	}
}

// Every mix of old and new programs works, under leaders of both; back before the gate
// opens works; the gate opens by itself with the last new program; back after it does not.
func TestRollingUpgrade(t *testing.T) {
	var p programs
	c := raftstoretest.NewCluster(t, 3, p.option)
	shut := func(why string) {
		t.Helper()
		for i, s := range c.Stores {
			if g := s.Gate(); g.Version != 1 {
				t.Fatalf("%s: node %d writes version %d", why, i, g.Version)
			}
		}
	}
	everyWrite(t, c, "old")
	for n := range 2 {
		p.upgrade(c, n, 2)
		for leader := range 3 {
			lead(t, c, leader)
			everyWrite(t, c, "mixed")
			shut("not all are new")
		}
	}
	lead(t, c, 0) // a new one: it says whom it waits for
	c.Eventually("the leader to wait for the old node", func() bool {
		w := c.Stores[0].Gate().Waits
		return len(w) == 1 && w[0] == raftstore.GateWait{ID: raftstoretest.NodeID(2), Knows: 1}
	})
	p.upgrade(c, 1, 1)
	everyWrite(t, c, "back")
	c.Stop(2)
	lead(t, c, 0)
	c.Eventually("the leader to wait for the node that is away", func() bool {
		for _, w := range c.Stores[0].Gate().Waits {
			if w == (raftstore.GateWait{ID: raftstoretest.NodeID(2)}) {
				return true
			}
		}
		return false
	})
	p.install(2, 2)
	c.Start(2)
	shut("one is old again")
	p.upgrade(c, 1, 2)
	for i, s := range c.Stores {
		c.Eventually("the gate to open on "+raftstoretest.NodeID(i), func() bool { return s.Gate().Version == 2 })
	}
	everyWrite(t, c, "new")
	if w := c.Stores[c.Leader()].Gate().Waits; len(w) != 0 {
		t.Errorf("an open gate waits for %+v", w)
	}
	c.Stop(1)
	p.install(1, 1)
	s, err := raftstore.Open(c.Config(1))
	if err == nil { // the disk did not know yet that the gate's entry was committed
		c.Stores[1] = s
		c.Eventually("the old program to halt", func() bool { return s.Status().Err != nil })
		err = s.Status().Err
		c.Stop(1)
	}
	if !strings.Contains(err.Error(), "too old for its cluster") || !strings.Contains(err.Error(), "the program that the other members run") {
		t.Errorf("the old program in a new cluster says: %v", err)
	}
	p.install(1, 2)
	c.Start(1)
	everyWrite(t, c, "repaired")
}

func TestGateRefusesOldMembers(t *testing.T) {
	var p programs
	p.install(0, 2)
	c := raftstoretest.NewCluster(t, 1, p.option)
	c.Eventually("the gate to open", func() bool { return c.Stores[0].Gate().Version == 2 })
	mustApply(t, c.Stores[0], put("k", "v"))
	p.install(1, 1)
	i := c.Add()
	err := c.Stores[0].Admit(bounded(t), raftstoretest.NodeID(i), 1)
	if err == nil || !strings.Contains(err.Error(), "too old") || len(c.Stores[0].Members()) != 1 {
		t.Fatalf("an old node is let in: %v, %+v", err, c.Stores[0].Members())
	}
	p.upgrade(c, i, 2)
	if err := c.Stores[0].Admit(bounded(t), raftstoretest.NodeID(i), 2); err != nil {
		t.Fatal(err)
	}
	everyWrite(t, c, "k")
	if err := c.Stores[i].Admits(1); err == nil {
		t.Error("a follower does not know how the gate stands")
	}
}

// The gate is in snapshots, and a program that is too old halts on one.
func TestGateInSnapshots(t *testing.T) {
	var p programs
	p.install(0, 2)
	c := raftstoretest.NewCluster(t, 1, p.option, func(cfg *raftstore.Config) { cfg.TrailingLogs = 1 })
	c.Eventually("the gate to open", func() bool { return c.Stores[0].Gate().Version == 2 })
	for range 8 {
		mustApply(t, c.Stores[0], put("k", "v"))
	}
	if err := c.Stores[0].Snapshot(); err != nil {
		t.Fatal(err)
	}
	c.Stop(0)
	p.install(0, 1)
	if _, err := raftstore.Open(c.Config(0)); err == nil || !strings.Contains(err.Error(), "too old for its cluster") {
		t.Fatalf("an old program opens a newer snapshot: %v", err)
	}
	p.install(0, 2)
	if got := c.Start(0).Gate().Version; got != 2 {
		t.Errorf("the gate stands at %d after a restart from a snapshot", got)
	}
	c.Leader()
}
