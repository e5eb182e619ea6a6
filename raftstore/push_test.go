package raftstore

import (
	"testing"

	"github.com/hashicorp/raft"
)

// A pusher rests only when its peer was told of what is applied by then: who has applied more
// meanwhile has found it at work, and begins no other.
func TestPushEndsWithWhatIsApplied(t *testing.T) {
	const peer = raft.ServerID("b")
	tr := &transport{peers: make(map[raft.ServerID]*peerRecord)}
	applied := uint64(5)
	current := func() *state { return &state{index: applied} }
	if !tr.beginPush(peer, applied) {
		t.Fatal("nobody pushes")
	}
	tell := func(index uint64) {
		tr.note(peer, &raft.AppendEntriesRequest{LeaderCommitIndex: index}, nil)
	}
	tell(5)
	applied = 6
	if tr.beginPush(peer, applied) {
		t.Error("two push to one peer")
	}
	if next, over := tr.endPush(peer, current); over || next.index != 6 {
		t.Errorf("entry 6 is pushed by nobody: next %d, over %v", next.index, over)
	}
	tell(6)
	if _, over := tr.endPush(peer, current); !over {
		t.Error("it goes on without anything to tell")
	}
	if tr.beginPush(peer, 6) || !tr.beginPush(peer, 7) {
		t.Error("what is to be pushed next is not what was not told")
	}
	tr.giveUpPush(peer)
	if !tr.beginPush(peer, 7) {
		t.Error("after it was given up, nobody pushes")
	}
}
