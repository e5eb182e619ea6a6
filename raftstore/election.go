package raftstore

import (
	"cmp"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// Elections, faster than Raft's own and as safe: how votes are given and counted is Raft's,
// but for whom a member listens to (hearCandidate).
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
	return rankOf(e.self, deref(e.lastLeader.Load()), e.servers())
}

// servers is the latest configuration that this node knows.
func (e *election) servers() []raft.Server {
	r := e.raft.Load()
	if r == nil {
		return nil
	}
	f := r.GetConfiguration()
	if f.Error() != nil {
		return nil
	}
	return f.Configuration().Servers
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

// errNoVoter is told to a leader that hands its leadership over to a node without a vote. It
// did so before it took the vote, and the word came late; Raft would stand for election, and
// since everybody is heard, might win.
var errNoVoter = errors.New("this node has no vote, and does not stand for election")

// votes tells whether this node is a voter of the latest configuration that it knows.
func (e *election) votes() bool {
	return slices.ContainsFunc(e.servers(), func(s raft.Server) bool { return s.ID == e.self && s.Suffrage == raft.Voter })
}

// hearCandidate has a candidate be heard whom this node's configuration does not name as a voter.
//
// Raft v1.8.0 refuses to vote for such a one, by the latest configuration in its log, which may
// never have been committed. Two leaders, one after the other, that began to change the members and
// lost their office before a majority had heard of it, then leave members of which each refuses
// the only one that could win, for ever.
//
// That it is safe is Raft's own argument for changes of one member at a time, in which a voter asks
// nobody's configuration but the log's (Ongaro's thesis, 4.1): it is the candidate's configuration
// that counts the votes, any majority of it and of the one before or after it have a member in
// common, and a leader begins no change before an entry of its own term is committed. Who was taken
// out, or lost its vote, and does not know it yet, has a log that ends before the entry of that,
// and of each majority somebody has that entry and refuses; before that, pre-votes have kept it
// from raising anybody's term. Who knows it does not stand for election. And who was removed for
// good has no streams to members: the cluster port bars its id (node, removal.go).
func (e *election) hearCandidate(command any) {
	switch req := command.(type) {
	case *raft.RequestVoteRequest:
		req.ID = nil // as of Raft's older versions: then it is not looked for
	case *raft.RequestPreVoteRequest:
		if voter := e.anyVoter(); voter != "" {
			req.ID = []byte(voter)
		}
	}
}

// anyVoter is a voter of this node's latest configuration; empty if there is none.
func (e *election) anyVoter() raft.ServerID {
	for _, s := range e.servers() {
		if s.Suffrage == raft.Voter {
			return s.ID
		}
	}
	return ""
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
