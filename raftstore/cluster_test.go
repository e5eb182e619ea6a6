package raftstore_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"kontiki/raftstore"
	"kontiki/raftstore/raftstoretest"
)

func TestForwardedWritesAreReadEverywhere(t *testing.T) {
	t.Parallel()
	c := raftstoretest.NewCluster(t, 3)
	for i, s := range c.Stores {
		key := fmt.Sprintf("k%d", i)
		r := mustApply(t, s, put(key, "v"))
		for j, other := range c.Stores {
			v, err := other.Linearize(bounded(t))
			if err != nil {
				t.Fatalf("linearizable read on node %d: %v", j, err)
			}
			if kv, ok := v.Get(key); !ok || kv.ModRevision != r.Revision {
				t.Fatalf("node %d does not show what was acknowledged before: %+v", j, kv)
			}
		}
	}
}

// Writers on the surviving nodes see a killed leader as latency, not as errors,
// and each of their increments happens exactly once.
func TestLeaderKilledUnderWriters(t *testing.T) {
	t.Parallel()
	c := raftstoretest.NewCluster(t, 3)
	leader := c.Leader()
	const writes = 150
	done := make(chan error, 2)
	started := make(chan struct{}, 2*writes)
	for i := range c.Stores {
		if i == leader {
			continue
		}
		s := c.Stores[i]
		go func() { done <- increment(t.Context(), s, fmt.Sprintf("counter-%d", i), writes, started, nil) }()
	}
	for range writes / 2 {
		select {
		case <-started:
		case err := <-done:
			t.Fatalf("a writer has ended: %v", err)
		}
	}
	c.Kill(leader)
	for range 2 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	for i, s := range c.Stores {
		if s == nil {
			continue
		}
		v, err := s.Linearize(bounded(t))
		if err != nil {
			t.Fatal(err)
		}
		for j := range c.Stores {
			if kv, _ := v.Get(fmt.Sprintf("counter-%d", j)); j != leader && kv.Version != writes {
				t.Errorf("node %d: counter-%d was written %d times, expected %d", i, j, kv.Version, writes)
			}
		}
	}
	c.Start(leader)
	want := c.Stores[(leader+1)%3].View().Revision()
	if _, err := c.Stores[leader].WaitRevision(bounded(t), want); err != nil {
		t.Fatalf("the killed node comes back: %v", err)
	}
}

// increment writes a key many times, each write on the condition that the one
// before is the latest: a write that happened twice makes the next one fail.
func increment(ctx context.Context, s *raftstore.Store, key string, times int, progress chan<- struct{}, seen *observed) error {
	var rev uint64
	for n := range times {
		each, cancel := context.WithTimeout(ctx, raftstoretest.Patience)
		r, err := s.Apply(each, raftstore.Txn{
			Compares: []raftstore.Compare{{Key: key, ModRevision: rev}},
			Ops:      []raftstore.Op{{Kind: raftstore.OpPut, Key: key, Value: fmt.Appendf(nil, "%d", n)}},
		})
		cancel()
		if err != nil {
			return fmt.Errorf("write %d of %s: %w", n, key, err)
		}
		if !r.Succeeded {
			return fmt.Errorf("write %d of %s: it had happened before: %+v", n, key, r.Current[0])
		}
		rev = r.Revisions[0]
		if seen != nil {
			seen.raise(rev)
		}
		progress <- struct{}{}
	}
	return nil
}

func TestOrderlyStopHandsLeadershipOver(t *testing.T) {
	t.Parallel()
	c := raftstoretest.NewCluster(t, 3)
	leader := c.Leader()
	term := c.Stores[leader].Leadership().Term
	c.Stop(leader)
	next := c.Stores[c.Leader()]
	if got := next.Leadership().Term; got != term+1 {
		t.Errorf("term %d follows %d: leadership was not handed over at once", got, term)
	}
	mustApply(t, next, put("k", "v"))
}

func TestHandOverLeavesTheStoreOpen(t *testing.T) {
	t.Parallel()
	c := raftstoretest.NewCluster(t, 3)
	old := c.Stores[c.Leader()]
	term := old.Leadership().Term
	old.HandOver()
	next := c.Stores[c.Leader()]
	if l := next.Leadership(); next == old || l.Term != term+1 {
		t.Fatalf("after term %d of the same store: %+v", term, l)
	}
	mustApply(t, old, put("k", "v"))
	old.HandOver() // of what it does not have
	if l := next.Leadership(); !l.Self {
		t.Errorf("a follower's handover took the leadership away: %+v", l)
	}
}

func TestMembersTellWhatTheyHold(t *testing.T) {
	c := raftstoretest.NewCluster(t, 3)
	leader := c.Leader()
	asker := c.Stores[(leader+1)%3]
	r := mustApply(t, asker, put("k", "v"))
	if _, err := c.Stores[(leader+2)%3].WaitRevision(bounded(t), r.Revision); err != nil {
		t.Fatal(err)
	}
	type told struct {
		raftstore.PeerStatus
		err error
	}
	for _, i := range []int{leader, (leader + 2) % 3} {
		answer := make(chan told, 1)
		asker.AskStatus(c.Stores[i].Status().NodeID, func(s raftstore.PeerStatus, err error) { answer <- told{s, err} })
		got := <-answer
		if got.err != nil || got.Revision != r.Revision || got.Term != asker.Status().Term || (i == leader) != (got.Silence == 0) {
			t.Errorf("%+v, want revision %d", got, r.Revision)
		}
	}
	c.Isolate(leader)
	answer := make(chan error, 1)
	asker.AskStatus(c.Stores[leader].Status().NodeID, func(_ raftstore.PeerStatus, err error) { answer <- err })
	if err := <-answer; err == nil {
		t.Error("a member that is cut off answered")
	}
}

func TestMinorityRefusesLinearizableReads(t *testing.T) {
	t.Parallel()
	c := raftstoretest.NewCluster(t, 3)
	old := c.Leader()
	mustApply(t, c.Stores[old], put("k", "old"))
	c.Isolate(old)
	// The other side elects a leader and moves on.
	other := c.Stores[(old+1)%3]
	r := mustApply(t, other, put("k", "new"))

	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if v, err := c.Stores[old].Linearize(ctx); !errors.Is(err, raftstore.ErrNoQuorum) {
		kv, _ := v.Get("k")
		t.Fatalf("the cut-off leader answered %q, error %v", kv.Value, err)
	}
	if kv, _ := c.Stores[old].View().Get("k"); string(kv.Value) != "old" {
		t.Fatalf("local reads go on: %q", kv.Value)
	}
	c.Rejoin(old)
	if _, err := c.Stores[old].WaitRevision(bounded(t), r.Revision); err != nil {
		t.Fatal(err)
	}
}

func TestFencedByTerm(t *testing.T) {
	c := raftstoretest.NewCluster(t, 3)
	first := c.Leader()
	term, err := c.Stores[first].Barrier(bounded(t))
	if err != nil {
		t.Fatal(err)
	}
	txn := put("k", "v")
	txn.Term = term
	mustApply(t, c.Stores[first], txn)
	c.Stop(first)
	second := c.Leader()
	before := c.Stores[second].View().Revision()
	if _, err := c.Stores[second].Apply(bounded(t), txn); !errors.Is(err, raftstore.ErrFenced) {
		t.Fatalf("a guard of term %d in term %d: %v", term, c.Stores[second].Leadership().Term, err)
	}
	if after := c.Stores[second].View().Revision(); after != before {
		t.Fatalf("a fenced transaction consumed revisions %d to %d", before, after)
	}
}

func TestMembers(t *testing.T) {
	t.Parallel()
	c := raftstoretest.NewCluster(t, 3)
	follower := c.Stores[(c.Leader()+1)%3]
	i := c.Add()
	id := raftstoretest.NodeID(i)
	for _, step := range []struct {
		name string
		do   func(context.Context, string) error
		want int // voters
	}{
		{"add", follower.AddNonvoter, 3},
		{"add again", follower.AddNonvoter, 3},
		{"promote", follower.Promote, 4},
		{"demote", follower.Demote, 3},
	} {
		if err := step.do(bounded(t), id); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		c.Eventually(step.name, func() bool {
			voters, found := 0, false
			for _, m := range c.Stores[i].Members() {
				if m.Voter {
					voters++
				}
				found = found || m.ID == id
			}
			return found && voters == step.want
		})
	}
	r := mustApply(t, c.Stores[i], put("from", "a non-voter"))
	if _, err := c.Stores[i].WaitRevision(bounded(t), r.Revision); err != nil {
		t.Fatal(err)
	}
	if v, err := c.Stores[i].Linearize(bounded(t)); err != nil || v.Revision() < r.Revision {
		t.Fatalf("linearizable read on a non-voter: %v", err)
	}
	if err := follower.Remove(bounded(t), id); err != nil {
		t.Fatal(err)
	}
	c.Eventually("the removal to be seen", func() bool { return len(follower.Members()) == 3 })
}

// The candidate with the shorter log cannot win, and does not keep the other one from it.
func TestFailOverToTheLongerLog(t *testing.T) {
	t.Parallel()
	c := raftstoretest.NewCluster(t, 3)
	for range 3 {
		leader := c.Leader()
		behind, ahead := (leader+1)%3, (leader+2)%3
		if behind > ahead {
			behind, ahead = ahead, behind // the one of better rank has the shorter log
		}
		c.Network.Cut(raftstoretest.NodeID(leader), raftstoretest.NodeID(behind))
		r := mustApply(t, c.Stores[leader], put("k", "v"))
		if _, err := c.Stores[ahead].WaitRevision(bounded(t), r.Revision); err != nil {
			t.Fatal(err)
		}
		c.Kill(leader)
		if got := c.Leader(); got != ahead {
			t.Fatalf("node %d leads, which missed an acknowledged write", got)
		}
		if v, err := c.Stores[behind].Linearize(bounded(t)); err != nil || v.Revision() < r.Revision {
			t.Fatalf("revision %d after %d was acknowledged, error %v", v.Revision(), r.Revision, err)
		}
		c.Start(leader)
		if _, err := c.Stores[leader].WaitRevision(bounded(t), r.Revision); err != nil {
			t.Fatal(err)
		}
	}
}
