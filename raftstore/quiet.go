package raftstore

import (
	"time"

	"github.com/hashicorp/raft"
)

// What an idle leader does not send. After each CommitTimeout, Raft asks every peer to append
// nothing, so that it hears of the commit index, which heartbeats do not tell. Once a peer
// has said yes to that there is nothing left to tell, and what else such a request does,
// heartbeats do: it renews the lease, and keeps the follower from seeking votes.
//
// So it is left out while all is well: the peer knows the commit index, has said yes to all
// entries before the request, and no heartbeat is under way. Where entries are under way, Raft asks
// again and again until they are answered (v1.8.0, leadershipTransfer), held up by nothing but the
// pipeline that fills up: left out, that would turn at a core's full speed. A heartbeat that is not
// answered may be lost, and its stream with it for as long as the kernel waits before it repeats;
// the request goes over another. A refusal, an error or another term end what is known of a peer:
// a candidate does not follow heartbeats (heartbeat.go), and one that was started again knows no
// commit index.

// tellAgain is how often a peer is told what it knows: so a stream that died in silence is
// found before an entry has to go over it.
const tellAgain = time.Second

// agreement is what a peer has said yes to.
type agreement struct {
	term   uint64 // of the leader that told it
	commit uint64
	held   uint64    // the last entry that it holds for certain
	at     time.Time // when that was sent
}

// needless reports whether a request would tell a peer nothing.
func (t *transport) needless(id raft.ServerID, req *raft.AppendEntriesRequest) bool {
	if len(req.Entries) > 0 {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.peer(id)
	return p.beating == 0 && p.knows.term == req.Term && p.knows.commit >= req.LeaderCommitIndex && p.knows.held >= req.PrevLogEntry && time.Since(p.knows.at) < tellAgain
}

// agree notes that a peer has said yes to a request that was sent at a time.
func (t *transport) agree(id raft.ServerID, req *raft.AppendEntriesRequest, at time.Time) {
	last := req.PrevLogEntry // a follower commits no further than it was shown to hold
	if n := len(req.Entries); n > 0 {
		last = req.Entries[n-1].Index
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.peer(id); at.After(p.distrusted) {
		p.knows = agreement{term: req.Term, commit: min(req.LeaderCommitIndex, last), held: last, at: at}
	}
}

// distrust forgets what the peer knows, and what it is still about to say yes to.
func (p *peerRecord) distrust() { // under transport.mu
	p.knows, p.distrusted = agreement{}, time.Now()
}

// beat sends a heartbeat.
func (t *transport) beat(id raft.ServerID, to raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	t.countBeats(id, +1)
	defer t.countBeats(id, -1)
	return t.NetworkTransport.AppendEntries(id, to, req, resp)
}

func (t *transport) countBeats(id raft.ServerID, more int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.peer(id).beating += more
}
