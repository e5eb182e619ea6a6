package raftstore

import "time"

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
