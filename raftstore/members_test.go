package raftstore_test

import (
	"os"
	"slices"
	"testing"

	"kontiki/raftstore"
	"kontiki/raftstore/raftstoretest"
)

// A voter that has lost its replica is no voter when it is let in again: a majority with it
// might know nothing of what was acknowledged. Being let in twice changes nothing.
func TestVoterThatLostItsReplica(t *testing.T) {
	lost := raftstoretest.NodeID(1)
	blank := false
	c := raftstoretest.NewCluster(t, 3, func(cfg *raftstore.Config) {
		if blank && cfg.NodeID == lost { // it joins, and founds nothing
			cfg.Founders = nil
		}
	})
	lead(t, c, 0)
	s := c.Stores[0]
	mustApply(t, s, put("k", "v"))
	c.Stop(1)
	if err := os.RemoveAll(c.Config(1).Dir); err != nil {
		t.Fatal(err)
	}
	blank = true
	for what, through := range map[string]*raftstore.Store{"the leader": s, "another": c.Stores[2], "the leader, once more": s} {
		if err := through.Admit(bounded(t), lost, 1); err != nil {
			t.Fatal(err)
		}
		at := slices.IndexFunc(s.Members(), func(m raftstore.Member) bool { return m.ID == lost })
		if at < 0 || s.Members()[at].Voter {
			t.Errorf("let in through %s, the members are %+v", what, s.Members())
		}
	}
	index := configurationIndex(t, s)
	if err := s.Admit(bounded(t), lost, 1); err != nil || configurationIndex(t, s) != index {
		t.Errorf("a member that was let in was let in again: %v", err)
	}
	again := c.Start(1)
	c.Eventually("it to hold what there is", func() bool { return again.View().Count("k") == 1 })
	if err := s.Promote(bounded(t), lost); err != nil {
		t.Error(err)
	}
}
