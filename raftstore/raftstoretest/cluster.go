package raftstoretest

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"kontiki/raftstore"
)

// Patience bounds every wait of this package.
const Patience = 30 * time.Second

// New starts a store of one node in a directory of the test and waits until it
// can write. It is closed when the test ends.
func New(t testing.TB, options ...func(*raftstore.Config)) *raftstore.Store {
	t.Helper()
	return NewCluster(t, 1, options...).Stores[0]
}

// Cluster is a group of stores over one Network. Node i is called NodeID(i).
type Cluster struct {
	Network *Network

	// Stores are the running stores, nil while a node is stopped. Its methods
	// change it, one at a time.
	Stores []*raftstore.Store

	t       testing.TB
	mu      sync.Mutex
	dirs    []string
	voters  []string
	options []func(*raftstore.Config)
}

// NodeID is the id of node i.
func NodeID(i int) string { return fmt.Sprintf("node-%d", i) }

// NewCluster starts n voters and waits until they have a leader. They are closed
// when the test ends. Options change each store's configuration.
func NewCluster(t testing.TB, n int, options ...func(*raftstore.Config)) *Cluster {
	t.Helper()
	c := &Cluster{Network: NewNetwork(), t: t, options: options}
	dir := t.TempDir()
	for i := range n {
		c.dirs = append(c.dirs, filepath.Join(dir, NodeID(i)))
		c.voters = append(c.voters, NodeID(i))
		c.Stores = append(c.Stores, nil)
	}
	t.Cleanup(func() {
		for i := range c.Stores {
			c.Stop(i)
		}
	})
	for i := range n {
		c.Start(i)
	}
	c.Leader()
	return c
}

// Start starts node i, for the first time or again.
func (c *Cluster) Start(i int) *raftstore.Store {
	c.t.Helper()
	s, err := raftstore.Open(c.Config(i))
	if err != nil {
		c.t.Fatalf("start %s: %v", NodeID(i), err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Stores[i] = s
	return s
}

// Config is the configuration of node i, with streams of its own.
func (c *Cluster) Config(i int) raftstore.Config {
	cfg := raftstore.Config{
		NodeID: NodeID(i), ClusterID: "test", Dir: c.dirs[i], Founders: c.voters,
		Raft: c.Network.Streams(NodeID(i), "raft"), Calls: c.Network.Streams(NodeID(i), "call"),
		Logger: slog.New(slog.NewTextHandler(c.t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	for _, option := range c.options {
		option(&cfg)
	}
	return cfg
}

// Stop stops node i in good order.
func (c *Cluster) Stop(i int) {
	c.mu.Lock()
	s := c.Stores[i]
	c.Stores[i] = nil
	c.mu.Unlock()
	if s != nil {
		if err := s.Close(); err != nil {
			c.t.Errorf("close %s: %v", NodeID(i), err)
		}
	}
}

// Kill cuts node i off before it is stopped, so that it can hand nothing over
// and say no goodbye.
func (c *Cluster) Kill(i int) {
	c.Isolate(i)
	c.Stop(i)
	c.Rejoin(i)
}

// Isolate cuts node i off from all others.
func (c *Cluster) Isolate(i int) {
	for j := range c.Stores {
		if j != i {
			c.Network.Cut(NodeID(i), NodeID(j))
		}
	}
}

// Rejoin ends Isolate.
func (c *Cluster) Rejoin(i int) {
	for j := range c.Stores {
		c.Network.Heal(NodeID(i), NodeID(j))
	}
}

// Add starts one more node, which is a member only once it has been added.
func (c *Cluster) Add() int {
	c.t.Helper()
	c.mu.Lock()
	i := len(c.Stores)
	c.Stores = append(c.Stores, nil)
	c.dirs = append(c.dirs, filepath.Join(filepath.Dir(c.dirs[0]), NodeID(i)))
	c.mu.Unlock()
	c.Start(i)
	return i
}

// Leader waits until a running node leads and has passed a barrier, and returns it.
func (c *Cluster) Leader() int {
	c.t.Helper()
	leader := -1
	c.Eventually("a leader", func() bool {
		for i, s := range c.Stores {
			if s == nil || !s.Leadership().Self {
				continue
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			_, err := s.Barrier(ctx)
			cancel()
			if err == nil {
				leader = i
				return true
			}
		}
		return false
	})
	return leader
}

// Eventually waits until cond holds.
func (c *Cluster) Eventually(what string, cond func() bool) {
	c.t.Helper()
	Eventually(c.t, what, cond)
}

// Eventually waits until cond holds, and fails the test if it does not in time.
func Eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.NewTimer(Patience)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("waited %v for %s", Patience, what)
		}
	}
}
