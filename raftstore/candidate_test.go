package raftstore

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// Two leaders, one after the other, each begin to change the members and lose their office
// before it is agreed on. Then each of the two that are left to decide has a configuration in its log
// which does not name the other as a voter; they still elect a leader.
func TestElectionAcrossUnfinishedChanges(t *testing.T) {
	for range 10 { // in some, what waited on the cut links solves it first
		electAcrossUnfinishedChanges(t)
	}
}

func electAcrossUnfinishedChanges(t *testing.T) {
	inSimCluster(t, 3, func(t *testing.T, c *simCluster) {
		first := c.leader()
		var others []*simNode
		for _, n := range c.nodes {
			if n != first {
				others = append(others, n)
			}
		}
		second, third := others[0], others[1]
		c.net.shift(func() {
			for _, n := range others {
				c.net.cut[[2]string{first.id, n.id}], c.net.cut[[2]string{n.id, first.id}] = true, true
			}
		})
		removed := first.at().store.raft.RemoveServer(raft.ServerID(second.id), 0, 0)
		c.pass(2 * time.Second)
		if c.leader() == third {
			if err := c.transfer(second); err != nil {
				t.Error(err)
			}
			c.pass(time.Second)
		}
		if c.leader() != second {
			t.Fatal("the one that the first leader was about to remove does not lead")
		}
		demoted := second.at().store.raft.DemoteVoter(raft.ServerID(third.id), 0, 0)
		c.pass(2 * time.Second)
		if n := c.leader(); n != nil {
			t.Errorf("%s leads without a majority", n.id)
		}
		for what, change := range map[string]raft.Future{"removal": removed, "demotion": demoted} {
			if err := change.Error(); err == nil {
				t.Errorf("the %s was agreed on", what)
			}
		}
		c.net.shift(func() { clear(c.net.cut) })
		c.pass(5 * time.Second)
		if c.leader() == nil {
			t.Error("nobody leads, though all are in reach of each other")
		}
	})
}

// A leader was about to hand over to a voter, gave that up, and took its vote; then the voter
// hears the first of it. It does not stand for election, which everybody would let it win.
func TestLateHandOverToANonvoter(t *testing.T) {
	inSimCluster(t, 3, func(t *testing.T, c *simCluster) {
		leader := c.leader()
		i := slices.IndexFunc(c.nodes, func(n *simNode) bool { return n != leader })
		late := c.nodes[i]
		from := leader.at().store
		if err := from.raft.DemoteVoter(raft.ServerID(late.id), 0, 0).Error(); err != nil {
			t.Fatal(err)
		}
		c.pass(time.Second)
		term := from.raft.CurrentTerm()
		req := &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}}
		err := from.transport.TimeoutNow(raft.ServerID(late.id), raft.ServerAddress(late.id), req, new(raft.TimeoutNowResponse))
		if err == nil || !strings.Contains(err.Error(), errNoVoter.Error()) {
			t.Errorf("it is told: %v", err)
		}
		c.pass(2 * time.Second)
		if now := from.raft.CurrentTerm(); c.leader() != leader || now != term {
			t.Errorf("there was an election: term %d, before it %d", now, term)
		}
	})
}
