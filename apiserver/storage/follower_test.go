package storage_test

import (
	"testing"

	"kontiki/raftstore"
	"kontiki/raftstore/raftstoretest"
)

// newStore is a store of one node. History is not compacted by age.
func newStore(t testing.TB) store { return raftstoretest.New(t) }

// TestUpstreamSuiteOnFollower runs the suite against a follower of three voters:
// every write is forwarded, and every read at no revision is a read-index round.
func TestUpstreamSuiteOnFollower(t *testing.T) {
	cluster := raftstoretest.NewCluster(t, 3)
	follower := cluster.Stores[(cluster.Leader()+1)%3]
	runOnSharedStore(t, follower)
}

// runOnSharedStore runs the cases one after another on one store, each on a
// resource prefix of its own, since a cluster takes its time to start.
func runOnSharedStore(t *testing.T, backend *raftstore.Store) {
	for _, c := range upstreamCases() {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t, backend, withPrefix("/"+c.name))
			c.run(f.ctx, t, f)
		})
	}
}
