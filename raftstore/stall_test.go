package raftstore_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"kontiki/raftstore"
	"kontiki/raftstore/raftstoretest"
)

// disks are the nodes' disks, which can hang and fill up.
type disks struct {
	mu    sync.Mutex
	hang  map[string]chan struct{}
	full  map[string]bool
	tries map[string]int // on a full disk
}

func newDisks() *disks {
	return &disks{hang: make(map[string]chan struct{}), full: make(map[string]bool), tries: make(map[string]int)}
}

func (d *disks) attach(cfg *raftstore.Config) {
	id := cfg.NodeID
	raftstore.WithDisk(cfg, func(write func() error) error {
		d.mu.Lock()
		hang, full := d.hang[id], d.full[id]
		if full {
			d.tries[id]++
		}
		d.mu.Unlock()
		if hang != nil {
			<-hang
		}
		if full {
			return syscall.ENOSPC
		}
		return write()
	})
}

func (d *disks) setFull(id string, full bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.full[id] = full
}

// stop makes a disk hang until the function it returns is called.
func (d *disks) stop(id string) (resume func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	hang := make(chan struct{})
	d.hang[id] = hang
	return sync.OnceFunc(func() {
		d.mu.Lock()
		delete(d.hang, id)
		d.mu.Unlock()
		close(hang)
	})
}

// A leader whose disk hangs gives way, though Raft's loop hangs with it.
func TestLeaderThatCannotWriteGivesWay(t *testing.T) {
	t.Parallel()
	d := newDisks()
	c := raftstoretest.NewCluster(t, 3, d.attach, func(cfg *raftstore.Config) { cfg.Timers.DiskStall = 300 * time.Millisecond })
	leader := c.Leader()
	other := c.Stores[(leader+1)%3]
	mustApply(t, other, put("before", "v"))
	resume := d.stop(raftstoretest.NodeID(leader))
	t.Cleanup(resume)
	r := mustApply(t, other, put("k", "v")) // retried with the next leader
	if l := other.Leadership().LeaderID; l == raftstoretest.NodeID(leader) {
		t.Fatalf("%s leads and cannot write", l)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if v, err := c.Stores[leader].Linearize(ctx); err == nil && v.Revision() < r.Revision {
		t.Fatalf("the stalled leader reads revision %d after %d was acknowledged", v.Revision(), r.Revision)
	}
	resume()
	v, err := c.Stores[leader].WaitRevision(bounded(t), r.Revision)
	if err != nil {
		t.Fatal(err)
	}
	if kv, _ := v.Get("k"); kv.Version != 1 {
		t.Fatalf("the write happened %d times", kv.Version)
	}
	mustApply(t, c.Stores[leader], put("after", "v"))
}

// The only voter keeps its office: nobody could take it.
func TestLoneVoterWaitsForItsDisk(t *testing.T) {
	t.Parallel()
	d := newDisks()
	c := raftstoretest.NewCluster(t, 1, d.attach, func(cfg *raftstore.Config) { cfg.Timers.DiskStall = 50 * time.Millisecond })
	i := c.Add()
	s := c.Stores[0]
	if err := s.AddNonvoter(bounded(t), raftstoretest.NodeID(i)); err != nil {
		t.Fatal(err)
	}
	term := s.Leadership().Term
	resume := d.stop(raftstoretest.NodeID(0))
	t.Cleanup(resume)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := s.Apply(ctx, put("k", "v")); !errors.Is(err, raftstore.ErrNoQuorum) {
		t.Fatalf("write while the disk hangs: %v", err)
	}
	resume()
	r := mustApply(t, s, put("k", "w"))
	if _, err := c.Stores[i].WaitRevision(bounded(t), r.Revision); err != nil {
		t.Fatalf("the replica is still fed: %v", err)
	}
	if now := s.Leadership().Term; now != term {
		t.Errorf("term %d, it was %d", now, term)
	}
}

// A leader whose disk is full gives way and does not come back before it has room.
// Without a majority that can write, nothing is acknowledged; with room, all goes on.
func TestFullDisksInAGroup(t *testing.T) {
	t.Parallel()
	d := newDisks()
	c := raftstoretest.NewCluster(t, 3, d.attach)
	leader := c.Leader()
	id := raftstoretest.NodeID(leader)
	other := c.Stores[(leader+1)%3]
	mustApply(t, other, put("before", "v"))
	d.setFull(id, true)
	for i := range 20 {
		mustApply(t, other, put(fmt.Sprintf("k%d", i), "v"))
	}
	if l := other.Leadership(); l.LeaderID == id {
		t.Fatalf("%s leads and cannot write", id)
	}
	if !c.Stores[leader].Status().DiskFailing {
		t.Error("the status does not say that the disk fails")
	}
	second := raftstoretest.NodeID((leader + 1) % 3)
	d.setFull(second, true)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := c.Stores[(leader+2)%3].Apply(ctx, put("nobody", "v")); !errors.Is(err, raftstore.ErrNoQuorum) {
		t.Fatalf("a write with two full disks of three: %v", err)
	}
	d.setFull(id, false)
	d.setFull(second, false)
	r := mustApply(t, other, put("after", "v"))
	for i, s := range c.Stores {
		v, err := s.WaitRevision(bounded(t), r.Revision)
		if err != nil {
			t.Fatalf("node %d: %v", i, err)
		}
		if n := v.Count("k"); n != 20 {
			t.Errorf("node %d has %d of 20 acknowledged writes", i, n)
		}
	}
}
