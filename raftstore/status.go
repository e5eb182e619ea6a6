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
	Err               error // why the store does not work now, if so

	Epoch Epoch
	// Damaged tells since when this replica is known to hold something else than what was
	// written, and is being refilled; zero: it does not.
	Damaged time.Time
	Refills uint64 // of this replica since the store was opened
	// Unclear tells, on the leader, how replicas differ of which none is the majority's.
	Unclear string

	Knows int  // version of commands that this program knows
	Gate  Gate // the version that is written
	// Roles says of each member why it has its role, on the leader; else nil.
	Roles map[string]string
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

	Damaged  bool     // it is being refilled, see Status
	LogIndex uint64   // of the last entry in its log, committed or not
	LogTerm  uint64   // of that entry
	LogTime  UnixNano // when that was made, by the clock of who led then; 0 if it is not known

	Knows int // version of commands that its program knows; 0: the first
	Gate  Gate
	Roles map[string]string // of the leader: see Status
}

// UnixNano is a time in nanoseconds since 1970.
type UnixNano int64

// Time is n as a time; 0 is the zero time.
func (n UnixNano) Time() time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, int64(n))
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
	out := PeerStatus{Term: own.Term, AppliedIndex: own.AppliedIndex, Revision: own.Revision, DiskFailing: own.DiskFailing,
		Damaged: !own.Damaged.IsZero(), Knows: own.Knows, Gate: own.Gate, Roles: own.Roles}
	out.LogIndex, out.LogTerm, out.LogTime = s.lastEntry()
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
		Knows: int(s.cfg.commandVersion), Gate: s.Gate(),
	}
	if roles := s.roles.Load(); roles != nil && l.Self {
		out.Roles = *roles
	}
	if !l.Self {
		out.LastContact = s.raft.LastContact()
	}
	out.Epoch, out.Refills = s.cfg.Epoch, s.refills.Load()
	if d := s.fsm.doubt.Load(); d != nil {
		out.Damaged = d.since
	}
	if unclear := s.unclear.Load(); unclear != nil {
		out.Unclear = *unclear
	}
	return out
}

// lastEntry describes the end of the log, or the newest snapshot if nothing follows it.
func (s *Store) lastEntry() (index, term uint64, made UnixNano) {
	var l raft.Log
	last := s.raft.LastIndex()
	if err := s.logs.GetLog(last, &l); err != nil { // it is in the snapshot alone
		st := s.fsm.current.Load()
		return last, st.term, 0
	}
	if !l.AppendedAt.IsZero() {
		made = UnixNano(l.AppendedAt.UnixNano())
	}
	return l.Index, l.Term, made
}
