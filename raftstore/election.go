package raftstore

import (
	"cmp"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// Elections, faster than Raft's own and as safe: votes are Raft's, untouched.
//
// Raft looks for a dead leader at random moments, so that a follower notices after
// one to three heartbeat timeouts, and a pre-vote that the other follower refuses
// because it has not noticed yet costs a whole election timeout. Here the follower
// notices when the timeout is over (runVigil), and a candidate asks those who
// refuse again at once (askPreVote). What Raft's randomness is for, that two
// candidates do not take the votes from each other, is done by rank: a candidate
// uses what it was granted a little later than one whose node id sorts before its.

const (
	askAgainFirst = 5 * time.Millisecond // after a refusal, doubled each time
	askAgainMax   = 80 * time.Millisecond
	// rankDelay is more than it takes to store a term and a vote and to ask for one.
	rankDelay = 40 * time.Millisecond
	// lateTimer says that this process did not get the CPU: what the leader sent
	// may wait to be read.
	lateTimer = 20 * time.Millisecond
)

// election is what askPreVote needs of the store. It is filled once Raft runs.
type election struct {
	raft       atomic.Pointer[raft.Raft]
	lastLeader atomic.Pointer[string]
	self       raft.ServerID
	patience   time.Duration // with one round of pre-votes
	closing    <-chan struct{}
	canLead    func() bool // a leader that cannot write would lose its office at its first entry
}

// seeking reports whether this node is still the candidate that asked for term.
func (e *election) seeking(term uint64) bool {
	r := e.raft.Load()
	return r != nil && r.State() == raft.Candidate && r.CurrentTerm()+1 == term
}

// rank is this node's place among the voters who can win.
func (e *election) rank() int {
	r := e.raft.Load()
	if r == nil {
		return 0
	}
	f := r.GetConfiguration()
	if f.Error() != nil {
		return 0
	}
	return rankOf(e.self, deref(e.lastLeader.Load()), f.Configuration().Servers)
}

func deref(s *string) raft.ServerID {
	if s == nil {
		return ""
	}
	return raft.ServerID(*s)
}

func rankOf(self, lastLeader raft.ServerID, servers []raft.Server) int {
	var able []raft.ServerID
	for _, s := range servers {
		if s.Suffrage == raft.Voter && s.ID != lastLeader {
			able = append(able, s.ID)
		}
	}
	slices.SortFunc(able, func(a, b raft.ServerID) int { return cmp.Compare(a, b) })
	return max(0, slices.Index(able, self))
}

// pause waits and reports whether this node still seeks the term then.
func (e *election) pause(d time.Duration, term uint64) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return e.seeking(term)
	case <-e.closing:
		return false
	}
}

// RequestPreVote asks a voter whether it would vote for this node, again and
// again while it refuses: it will not have noticed yet that the leader is gone.
func (t *transport) RequestPreVote(id raft.ServerID, to raft.ServerAddress, req *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	return t.election.askPreVote(req, resp, func(resp *raft.RequestPreVoteResponse) error {
		return t.NetworkTransport.RequestPreVote(id, to, req, resp)
	})
}

func (e *election) askPreVote(req *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse, ask func(*raft.RequestPreVoteResponse) error) error {
	until := time.Now().Add(e.patience)
	for wait := askAgainFirst; ; wait = min(2*wait, askAgainMax) {
		*resp = raft.RequestPreVoteResponse{}
		if err := ask(resp); err != nil {
			return err
		}
		if resp.Granted {
			rank := e.rank()
			resp.Granted = e.canLead() && (rank == 0 || e.pause(time.Duration(rank)*rankDelay, req.Term))
			return nil
		}
		if resp.Term > req.Term || time.Now().After(until) || !e.pause(wait, req.Term) {
			return nil
		}
	}
}

// runVigil makes Raft look at once when the leader has been silent for the
// heartbeat timeout.
func (s *Store) runVigil() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		l, changed := s.leadership.get()
		timer.Stop()
		if l.LeaderID != "" && !l.Self {
			s.transport.election.lastLeader.Store(&l.LeaderID)
			timer.Reset(s.silentIn())
		}
		select {
		case <-changed:
			continue
		case <-timer.C:
		case <-s.closing:
			return
		}
		late := -s.silentIn()
		if late > lateTimer {
			timer.Reset(min(late, s.cfg.Timers.Heartbeat))
			select {
			case <-timer.C:
			case <-s.closing:
				return
			}
			late = -s.silentIn()
		}
		if late < 0 || s.err() != nil {
			continue
		}
		s.lookForLeader()
		timer.Reset(s.cfg.Timers.Heartbeat)
		select {
		case <-changed:
		case <-timer.C:
		case <-s.closing:
			return
		}
	}
}

// silentIn is the time until the leader will have been silent for too long.
func (s *Store) silentIn() time.Duration {
	return s.cfg.Timers.Heartbeat - time.Since(s.raft.LastContact())
}

// lookForLeader has Raft compare the time of the last contact with the heartbeat
// timeout now. It does so when it learns of a shorter timeout.
func (s *Store) lookForLeader() {
	c := s.raft.ReloadableConfig()
	for _, heartbeat := range []time.Duration{s.cfg.Timers.Heartbeat + heartbeatNudge, s.cfg.Timers.Heartbeat} {
		c.HeartbeatTimeout = heartbeat
		if err := s.raft.ReloadConfig(c); err != nil {
			s.log.Error("raft refuses its own timers", "error", err)
		}
	}
}

const heartbeatNudge = time.Microsecond
