package raftstore

import (
	"time"

	"github.com/hashicorp/raft"
)

// Commit push. Raft tells followers that an entry is committed with the next
// entry, or after CommitTimeout. Here the leader sends one empty AppendEntries
// as soon as it has applied, so that reads and watches on every node are a round
// trip behind.
//
// It is an ordinary request of the leader of its term: the previous entry it
// names is the committed one itself. A follower that holds that entry holds, by
// Raft's log matching, all before it, and commits up to it and not beyond; one
// that does not hold it yet, or knows a later term, refuses, and nothing changes.
// It goes over a stream of its own, so Raft's pipeline and its accounting of
// answers do not see it, and it never counts for a lease.

const (
	pushTries = 6                    // a follower may still be writing the entry itself
	pushWait  = 1 * time.Millisecond // after the first try, doubled each time
)

// runPush pushes what this node applies while it leads.
func (s *Store) runPush() {
	for {
		s.fsm.mu.RLock()
		st, changed := s.fsm.current.Load(), s.fsm.changed
		s.fsm.mu.RUnlock()
		if term, leads := s.leadsIn(); leads && st.term == term {
			for _, server := range s.servers() {
				if string(server.ID) != s.cfg.NodeID && s.transport.beginPush(server.ID, st.index) {
					s.spawn(func() { s.push(server) })
				}
			}
		}
		select {
		case <-changed:
		case <-s.closing:
			return
		}
	}
}

// beginPush reports whether the caller is to start pushing to a peer.
func (t *transport) beginPush(id raft.ServerID, commit uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.peer(id)
	if p.pushing || p.away || p.told >= commit {
		return false
	}
	p.pushing = true
	return true
}

// endPush returns the state that a peer has to be told of next, or says that its pusher may
// rest, and makes it so. It looks at the state itself: who publishes a later one meanwhile finds
// the pusher at work, or resting.
func (t *transport) endPush(id raft.ServerID, current func() *state) (next *state, over bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p, next := t.peer(id), current()
	p.pushing = !p.away && p.told < next.index
	return next, !p.pushing
}

// giveUpPush leaves the rest to Raft.
func (t *transport) giveUpPush(id raft.ServerID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.peer(id).pushing = false
}

// push tells one peer the commit index until it has been told the latest.
func (s *Store) push(server raft.Server) {
	tries := 0
	for {
		st, over := s.transport.endPush(server.ID, s.fsm.current.Load)
		if over {
			return
		}
		term, leads := s.leadsIn()
		if !leads || st.term != term || term <= s.transport.silent.Load() || s.err() != nil {
			s.transport.giveUpPush(server.ID)
			return
		}
		if s.pushOnce(server, st.index, term) {
			tries = 0
			continue
		}
		if tries++; tries == pushTries {
			s.transport.giveUpPush(server.ID)
			return // CommitTimeout will tell it
		}
		select {
		case <-time.After(pushWait << tries):
		case <-s.closing:
		}
	}
}

// pushOnce sends one push and reports whether the peer has accepted it.
func (s *Store) pushOnce(server raft.Server, index, term uint64) bool {
	self := s.transport.EncodePeer(raft.ServerID(s.cfg.NodeID), s.transport.LocalAddr())
	req := &raft.AppendEntriesRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(s.cfg.NodeID), Addr: self},
		Term:      term,
		//lint:ignore SA1019 Raft itself still sends it, for followers that read no header
		Leader:       self,
		PrevLogEntry: index, PrevLogTerm: term,
		LeaderCommitIndex: index,
	}
	var resp raft.AppendEntriesResponse
	err := s.transport.NetworkTransport.AppendEntries(server.ID, server.Address, req, &resp)
	if err == nil && !resp.Success {
		return false
	}
	s.transport.note(server.ID, req, err)
	return err == nil
}
