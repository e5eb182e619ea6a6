package raftstore

import (
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// A snapshot of what a member has applied already, which comes late or from a leader that has no
// newer one, does not take the member back.
func TestAnOlderSnapshotIsNotInstalled(t *testing.T) {
	inSimCluster(t, 3, func(t *testing.T, c *simCluster) {
		leader := c.leader()
		s := leader.at().store
		write := func(n int) {
			for i := range n {
				if _, err := s.Apply(t.Context(), Txn{Ops: []Op{{Kind: OpPut, Key: fmt.Sprint("key", i), Value: []byte("value")}}}); err != nil {
					t.Fatal(err)
				}
			}
		}
		write(10)
		if err := s.raft.Snapshot().Error(); err != nil {
			t.Fatal(err)
		}
		write(10)
		c.pass(time.Second)
		var follower *simNode
		for _, n := range c.nodes {
			if n != leader {
				follower = n
			}
		}
		before := follower.at().store.raft.AppliedIndex()
		snapshots, err := s.snapshots.List()
		if err != nil || len(snapshots) == 0 || snapshots[0].Index >= before {
			t.Fatalf("snapshots %v, %v, and entry %d is applied", snapshots, err, before)
		}
		meta, data, err := s.snapshots.Open(snapshots[0].ID)
		if err != nil {
			t.Fatal(err)
		}
		defer data.Close()
		self := s.transport.EncodePeer(raft.ServerID(leader.id), s.transport.LocalAddr())
		req := &raft.InstallSnapshotRequest{
			RPCHeader:       raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(leader.id), Addr: self},
			SnapshotVersion: meta.Version, Term: s.raft.CurrentTerm(), Leader: self,
			LastLogIndex: meta.Index, LastLogTerm: meta.Term, Size: meta.Size,
			Configuration: raft.EncodeConfiguration(meta.Configuration), ConfigurationIndex: meta.ConfigurationIndex,
		}
		var resp raft.InstallSnapshotResponse
		if err := s.transport.InstallSnapshot(raft.ServerID(follower.id), raft.ServerAddress(follower.id), req, &resp, data); err != nil || !resp.Success {
			t.Errorf("the follower's answer is %+v, %v", resp, err)
		}
		if after := follower.at().store.raft.AppliedIndex(); after < before {
			t.Errorf("the follower had applied entry %d, and is back at %d", before, after)
		}
		write(1)
		c.pass(time.Second)
		if want, got := s.raft.AppliedIndex(), follower.at().store.raft.AppliedIndex(); got != want {
			t.Errorf("the leader is at entry %d, the follower at %d", want, got)
		}
	})
}
