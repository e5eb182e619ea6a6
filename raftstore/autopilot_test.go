package raftstore_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"kontiki/raftstore"
	"kontiki/raftstore/raftstoretest"
	"kontiki/raftstore/voters"
)

// electorate runs KeepVoters wherever a store of a cluster leads.
type electorate struct {
	*raftstoretest.Cluster
	t     *testing.T
	rules voters.Rules

	mu    sync.Mutex
	peers map[string]raftstore.Peer
}

func newElectorate(t *testing.T, c *raftstoretest.Cluster) *electorate {
	e := &electorate{Cluster: c, t: t, peers: map[string]raftstore.Peer{},
		rules: voters.Rules{Voters: 5, Stable: time.Second, Dead: 2 * time.Second, Forget: 3 * time.Second}}
	for i, s := range c.Stores {
		e.follow(i, s)
	}
	return e
}

// follow has a store's term work begin and end as a node's does.
func (e *electorate) follow(i int, s *raftstore.Store) {
	e.tell(i, raftstore.Peer{State: raftstore.PeerAlive})
	changed, stop := s.WatchLeadership()
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() {
		defer stop()
		end := func() {}
		defer func() { end() }()
		for {
			select {
			case l := <-changed:
				end()
				if !l.Self {
					end = func() {}
					continue
				}
				term, cancel := context.WithCancel(ctx)
				end = cancel
				work.Go(func() {
					_ = s.KeepVoters(term, l.Term, raftstore.Voting{Rules: e.rules, Peers: e.told})
				})
			case <-ctx.Done():
				return
			}
		}
	})
	e.t.Cleanup(func() { cancel(); work.Wait() }) // before the stores are closed
}

func (e *electorate) told() map[string]raftstore.Peer {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := map[string]raftstore.Peer{}
	for id, p := range e.peers {
		out[id] = p
	}
	return out
}

func (e *electorate) tell(i int, p raftstore.Peer) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if p.Since.IsZero() {
		p.Since = time.Now()
	}
	e.peers[raftstoretest.NodeID(i)] = p
}

func (e *electorate) die(i int) {
	e.Kill(i)
	e.tell(i, raftstore.Peer{State: raftstore.PeerDead})
}

// awaitRoles waits until the members are voters (V), without a vote (n), or outside (-),
// one letter a node.
func (e *electorate) awaitRoles(what, want string) {
	e.t.Helper()
	got := ""
	defer func() {
		if e.t.Failed() {
			e.t.Logf("the roles are %s, want %s", got, want)
		}
	}()
	e.Eventually(what, func() bool {
		for _, s := range e.Stores {
			if s == nil || !s.Leadership().Self {
				continue
			}
			letters := []byte(strings.Repeat("-", len(want)))
			for i := range letters {
				for _, m := range s.Members() {
					if m.ID == raftstoretest.NodeID(i) {
						letters[i] = map[bool]byte{true: 'V', false: 'n'}[m.Voter]
					}
				}
			}
			got = string(letters)
			return got == want
		}
		return false
	})
}

func (e *electorate) why(i int) string {
	return e.Stores[e.Leader()].Status().Roles[raftstoretest.NodeID(i)]
}

// Five voters survive the loss of three, one after another; those that come back are
// members again, with all they held.
func TestVotersAreLookedAfter(t *testing.T) {
	c := raftstoretest.NewCluster(t, 5)
	e := newElectorate(t, c)
	for c.Leader() < 3 { // the leader is to live
		_ = c.Stores[c.Leader()].TransferTo(raftstoretest.NodeID(3))
	}
	writer := c.Stores[4]
	held := mustApply(t, writer, put("before", "v"))
	if _, err := c.Stores[0].WaitRevision(bounded(t), held.Revision); err != nil {
		t.Fatal(err)
	}
	e.die(0)
	mustApply(t, writer, put("k", "one is dead"))
	c.Eventually("the dead voter to keep its vote, since that costs nothing", func() bool {
		return strings.Contains(e.why(0), "keeps its vote")
	})
	e.Kill(1)
	e.tell(1, raftstore.Peer{}) // as if this leader had never met it in the ring
	e.awaitRoles("two dead voters to lose their votes, and to leave the group", "--VVV")
	mustApply(t, writer, put("k", "two are dead"))
	e.die(2)
	last := mustApply(t, writer, put("k", "three are dead"))

	back := c.Start(0)
	if kv, ok := back.View().Get("before"); !ok || kv.ModRevision != held.Revision {
		t.Fatalf("the first comes back without its state: %+v", kv)
	}
	e.follow(0, back)
	if _, err := back.WaitRevision(bounded(t), last.Revision); err != nil {
		t.Fatalf("it is not let in again: %v", err)
	}
	e.awaitRoles("it to vote in the place of the third", "V--VV")
	mustApply(t, back, put("k", "again three"))
}

// What an operator said stays, and is shown.
func TestWishesStay(t *testing.T) {
	c := raftstoretest.NewCluster(t, 3)
	e := newElectorate(t, c)
	lead(t, c, 0)
	e.tell(1, raftstore.Peer{State: raftstore.PeerAlive, Wish: voters.NoVote})
	e.awaitRoles("the vote to be taken", "VnV")
	c.Eventually("the reason", func() bool { return e.why(1) == "demoted by an operator" })
	e.tell(1, raftstore.Peer{State: raftstore.PeerAlive})
	e.awaitRoles("the vote to be given back", "VVV")
	c.Eventually("another reason", func() bool { return strings.HasPrefix(e.why(1), "healthy") })
}

// A change is made on the configuration and in the term that it was decided in, or not
// at all.
func TestChangesAreFenced(t *testing.T) {
	c := raftstoretest.NewCluster(t, 3)
	s := c.Stores[c.Leader()]
	term, index := s.Leadership().Term, configurationIndex(t, s)
	other := raftstoretest.NodeID((c.Leader() + 1) % 3)
	if err := s.ChangeAt(bounded(t), term+1, index, voters.Change{Action: voters.Demote, ID: other}); !errors.Is(err, raftstore.ErrNotLeader) {
		t.Errorf("a change of another term: %v", err)
	}
	i := c.Add()
	if err := s.AddNonvoter(bounded(t), raftstoretest.NodeID(i)); err != nil {
		t.Fatal(err)
	}
	if err := s.ChangeAt(bounded(t), term, index, voters.Change{Action: voters.Demote, ID: other}); err == nil || !strings.Contains(err.Error(), "configuration changed") {
		t.Errorf("a change decided on an earlier configuration: %v", err)
	}
	if err := s.ChangeAt(bounded(t), term, configurationIndex(t, s), voters.Change{Action: voters.Demote, ID: other}); err != nil {
		t.Errorf("a change in its time: %v", err)
	}
}

// A node that an operator removes while it is let in again stays out.
func TestRemovedWhileLetInAgain(t *testing.T) {
	c := raftstoretest.NewCluster(t, 1)
	s, id := c.Stores[0], raftstoretest.NodeID(c.Add())
	c.Leader()
	for _, belong := range [][]string{nil, {id}} {
		add := voters.Change{Action: voters.Add, ID: id}
		if err := s.ChangeAt(bounded(t), s.Leadership().Term, configurationIndex(t, s), add, belong...); err != nil {
			t.Fatal(err)
		}
		in := slices.ContainsFunc(s.Members(), func(m raftstore.Member) bool { return m.ID == id })
		if in != (belong != nil) {
			t.Errorf("a member: %v, of those that belong to the cluster: %v", in, belong)
		}
	}
}

// The index of the configuration is known from the log, and from a snapshot that stands
// for it.
func TestConfigurationIndexSurvivesASnapshot(t *testing.T) {
	c := raftstoretest.NewCluster(t, 1, func(cfg *raftstore.Config) { cfg.TrailingLogs = 1 })
	s := c.Stores[0]
	if err := s.AddNonvoter(bounded(t), "another"); err != nil {
		t.Fatal(err)
	}
	for range 8 {
		mustApply(t, s, put("k", "v"))
	}
	want := configurationIndex(t, s)
	if err := s.Snapshot(); err != nil {
		t.Fatal(err)
	}
	c.Stop(0)
	s = c.Start(0)
	c.Leader()
	if got := configurationIndex(t, s); got != want || want < 2 {
		t.Errorf("the configuration is that of entry %d, after a restart %d", want, got)
	}
	if err := s.ChangeAt(bounded(t), s.Leadership().Term, want, voters.Change{Action: voters.Remove, ID: "another"}); err != nil {
		t.Error(err)
	}
}

func configurationIndex(t *testing.T, s *raftstore.Store) uint64 {
	t.Helper()
	index, err := s.ConfigurationIndex()
	if err != nil {
		t.Fatal(err)
	}
	return index
}
