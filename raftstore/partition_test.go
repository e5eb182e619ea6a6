package raftstore_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"kontiki/raftstore"
	"kontiki/raftstore/raftstoretest"
)

// observed is the highest revision that anybody was told of.
type observed struct{ atomic.Uint64 }

func (o *observed) raise(rev uint64) {
	for old := o.Load(); rev > old && !o.CompareAndSwap(old, rev); old = o.Load() {
	}
}

// readers read on every node until stop is closed: no read may be older than
// what was acknowledged, or read, before it began.
func readers(t *testing.T, c *raftstoretest.Cluster, seen *observed, stop <-chan struct{}) *sync.WaitGroup {
	var wg sync.WaitGroup
	for i, s := range c.Stores {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond): // leave some of the machine to the writers
				}
				before := seen.Load()
				ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
				v, err := s.Linearize(ctx)
				cancel()
				switch {
				case err == nil && v.Revision() < before:
					t.Errorf("node %d read revision %d after %d was known", i, v.Revision(), before)
					return
				case err == nil:
					seen.raise(v.Revision())
				case !errors.Is(err, raftstore.ErrNoQuorum):
					t.Errorf("read on node %d: %v", i, err)
					return
				}
			}
		})
	}
	return &wg
}

// The leader is cut off and comes back, again and again, with writers and
// readers on every node, the cut-off one included.
func TestPartitionedLeaderUnderWritersAndReaders(t *testing.T) {
	t.Parallel()
	c := raftstoretest.NewCluster(t, 3)
	const writes, rounds = 150, 3
	var seen observed
	stop := make(chan struct{})
	reading := readers(t, c, &seen, stop)
	progress := make([]chan struct{}, 3)
	done := make(chan error, 3)
	for i, s := range c.Stores {
		progress[i] = make(chan struct{}, writes)
		go func() { done <- increment(t.Context(), s, fmt.Sprintf("counter-%d", i), writes, progress[i], &seen) }()
	}
	for range rounds { // all of them before the first writer can be done
		leader := c.Leader()
		c.Isolate(leader)
		for i := range c.Stores { // the majority goes on
			for range 20 {
				if i == leader {
					continue
				}
				select {
				case <-progress[i]:
				case err := <-done:
					t.Fatalf("a writer has ended: %v", err)
				case <-bounded(t).Done():
					t.Fatalf("the writer on node %d does not get on while node %d is cut off", i, leader)
				}
			}
		}
		c.Rejoin(leader)
	}
	for range 3 {
		if err := <-done; err != nil {
			t.Error(err)
			for _, s := range c.Stores {
				t.Logf("%+v", s.Status())
			}
		}
	}
	close(stop)
	reading.Wait()
	for i, s := range c.Stores {
		v, err := s.WaitRevision(bounded(t), 1+3*writes)
		if err != nil || v.Revision() != 1+3*writes {
			t.Errorf("node %d is at revision %d after %d writes, error %v", i, v.Revision(), 3*writes, err)
		}
	}
}

// flaky loses answers: now and then a stream breaks when something arrives on it.
type flaky struct {
	raftstore.Streams
	mu   sync.Mutex
	rand *rand.Rand
}

func (f *flaky) Dial(ctx context.Context, nodeID string) (net.Conn, error) {
	conn, err := f.Streams.Dial(ctx, nodeID)
	if err != nil {
		return nil, err
	}
	return &flakyConn{conn, f}, nil
}

type flakyConn struct {
	net.Conn
	f *flaky
}

func (c *flakyConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.f.mu.Lock()
	lose := c.f.rand.IntN(40) == 0
	c.f.mu.Unlock()
	if lose {
		c.Conn.Close()
		return 0, net.ErrClosed
	}
	return n, err
}

// An answer that is lost makes the proposer try again what has happened already.
func TestRetriedWritesHappenOnce(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	c := raftstoretest.NewCluster(t, 3, func(cfg *raftstore.Config) {
		cfg.Calls = &flaky{Streams: cfg.Calls, rand: rand.New(rand.NewPCG(seed, 0))}
	})
	const writes, writers = 100, 4
	done := make(chan error, writers)
	follower := c.Stores[(c.Leader()+1)%3]
	for w := range writers {
		go func() {
			done <- increment(t.Context(), follower, fmt.Sprintf("counter-%d", w), writes, make(chan struct{}, writes), nil)
		}()
	}
	for range writers {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if v, err := follower.Linearize(bounded(t)); err != nil || v.Revision() != 1+writes*writers {
		t.Errorf("revision %d after %d writes, error %v", v.Revision(), writes*writers, err)
	}
}
