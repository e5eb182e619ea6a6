package raftstore

import (
	"context"
	"time"

	"github.com/hashicorp/raft"
)

// Status is a store's own account of itself.
type Status struct {
	NodeID, ClusterID string
	Role              string // Leader, Follower, Candidate or Shutdown
	LeaderID          string // empty: none is known
	Term              uint64
	LastContact       time.Time // with the leader; zero: never, or this node leads
	LastIndex         uint64    // of the log
	AppliedIndex      uint64    // of the last entry with commands
	Revision          uint64
	Compacted         uint64 // history reaches back to it on this node
	Keys              int
	Members           []Member
	DiskFailing       bool  // writes fail, the disk may be full
	Err               error // why the store does not work any more, if so
}

// PeerStatus is what a member says of itself when it is asked by another.
type PeerStatus struct {
	Term         uint64
	AppliedIndex uint64 // of the last entry with commands
	Revision     uint64 // that its replica shows
	// Silence is for how long it has not heard the leader; 0 on the leader itself,
	// negative if it never has.
	Silence     time.Duration
	DiskFailing bool
}

// AskStatus asks another member and calls back, once: with an answer, or an error after
// five seconds at most.
func (s *Store) AskStatus(nodeID string, answered func(PeerStatus, error)) {
	began := s.spawn(func() {
		ctx, cancel := context.WithTimeout(s.life, attemptTime)
		defer cancel()
		var status PeerStatus
		err := s.caller.call(ctx, nodeID, callStatus, struct{}{}, &status)
		answered(status, err)
	})
	if !began {
		go answered(PeerStatus{}, ErrClosed)
	}
}

// PeerStatus is what this member tells others of itself.
func (s *Store) PeerStatus() PeerStatus {
	own := s.Status()
	out := PeerStatus{Term: own.Term, AppliedIndex: own.AppliedIndex, Revision: own.Revision, DiskFailing: own.DiskFailing}
	switch {
	case own.Role == raft.Leader.String():
	case own.LastContact.IsZero():
		out.Silence = -1
	default:
		out.Silence = max(time.Since(own.LastContact), 0)
	}
	return out
}

// Status returns the present status.
func (s *Store) Status() Status {
	l, st := s.Leadership(), s.fsm.current.Load()
	out := Status{
		NodeID: s.cfg.NodeID, ClusterID: s.cfg.ClusterID,
		Role: s.raft.State().String(), LeaderID: l.LeaderID, Term: s.raft.CurrentTerm(),
		LastIndex: s.raft.LastIndex(), AppliedIndex: st.index,
		Revision: st.revision, Compacted: s.Compacted(), Keys: st.keys.Len(),
		Members: s.Members(), DiskFailing: s.disk.full.Load(), Err: s.err(),
	}
	if !l.Self {
		out.LastContact = s.raft.LastContact()
	}
	return out
}
