package raftstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Leadership says who leads, as this node knows.
type Leadership struct {
	LeaderID string // empty: no leader is known
	Term     uint64 // Raft term; with Self, the one this node leads in
	Self     bool
}

// leadership keeps the latest Leadership and tells those who wait for another.
type leadership struct {
	mu      sync.Mutex
	latest  Leadership
	changed chan struct{} // closed and replaced at each change
	readyIn uint64        // term in which this node leads and has applied all earlier entries
}

// Leadership returns what this node knows of the leader now.
func (s *Store) Leadership() Leadership {
	l, _ := s.leadership.get()
	return l
}

// WatchLeadership returns a channel that holds the latest Leadership whenever it
// has changed, beginning with the present one, and a function that ends the
// watch. Intermediate values may be skipped.
func (s *Store) WatchLeadership() (<-chan Leadership, func()) {
	out, stop := make(chan Leadership, 1), make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			latest, changed := s.leadership.get()
			select {
			case <-out: // not read yet: replace it
			default:
			}
			out <- latest
			select {
			case <-changed:
			case <-stop:
				return
			case <-s.closing:
				return
			}
		}
	}()
	var once sync.Once
	return out, func() {
		once.Do(func() { close(stop) })
		<-done
	}
}

// Barrier returns once this node, as the leader, has applied every entry that
// was logged before, and the term in which it leads. Elsewhere it returns ErrNotLeader.
func (s *Store) Barrier(ctx context.Context) (term uint64, err error) {
	if err := s.err(); err != nil {
		return 0, err
	}
	before, leads := s.leadsIn()
	if !leads {
		return 0, ErrNotLeader
	}
	if err := await(ctx, s.raft.Barrier(barrierTimeout)); ctx.Err() != nil {
		return 0, context.Cause(ctx)
	} else if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrNotLeader, err)
	}
	if after, leads := s.leadsIn(); !leads || after != before {
		return 0, ErrNotLeader
	}
	return before, nil
}

const barrierTimeout = 10 * time.Second

// await waits for the answer to a future, until ctx ends. Raft v1.8.0 leaves some futures
// without one when it is shut down; who asked must not wait with them for ever.
func await(ctx context.Context, f raft.Future) error {
	done := make(chan error, 1)
	go func() { done <- f.Error() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// leadsIn returns the term in which this node leads. Raft steps down before it
// raises its term, so a term that is the same around "I lead" is the leader's.
func (s *Store) leadsIn() (uint64, bool) {
	for {
		term := s.raft.CurrentTerm()
		leads := s.raft.State() == raft.Leader
		if s.raft.CurrentTerm() == term {
			return term, leads
		}
	}
}

// HandOver gives leadership to another voter, if this node has it and there is one, and
// returns when that was done or has failed. Others then go on within milliseconds
// instead of after an election. Whoever stops a leader calls it first, while all else
// still works; the node stays a member and may be elected again.
func (s *Store) HandOver() {
	if _, leads := s.leadsIn(); !leads || !s.otherVoters() {
		return
	}
	if err := s.transferLeadership(s.raft.LeadershipTransfer); err != nil {
		s.log.Warn("leadership was not handed over; the others will elect a leader", "error", err)
	}
}

// errTransferFailed is returned for a transfer in a term in which one has failed.
var errTransferFailed = errors.New("leadership was to be handed over before in this term, and was not")

// transferLeadership has Raft hand leadership over, once in a term if that fails. A
// transfer that Raft (v1.8.0) gives up after its timeout leaves a question in the queue
// of the peer's replication, which has room for one; the next transfer to that peer can
// then wait for room for ever, also when this node does not lead any more (raft.go,
// leadershipTransfer). As long as it waits, the node takes no writes: if it is elected
// again, the cluster has a leader that works in everything else.
func (s *Store) transferLeadership(transfer func() raft.Future) error {
	s.transfers <- struct{}{}
	defer func() { <-s.transfers }()
	term, leads := s.leadsIn()
	switch {
	case !leads:
		return ErrNotLeader
	case s.transferFailed == term:
		return errTransferFailed
	}
	err := await(s.life, transfer())
	if err != nil {
		s.transferFailed = term
	}
	return err
}

func (s *Store) otherVoters() bool {
	return slices.ContainsFunc(s.servers(), func(server raft.Server) bool {
		return server.Suffrage == raft.Voter && string(server.ID) != s.cfg.NodeID
	})
}

func (l *leadership) get() (Leadership, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.latest, l.changed
}

func (l *leadership) set(next Leadership) (changed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if next == l.latest {
		return false
	}
	l.latest = next
	close(l.changed)
	l.changed = make(chan struct{})
	return true
}

func (l *leadership) setReady(term uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.readyIn = term
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *leadership) ready() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.readyIn
}

// runLeadership follows Raft's observations until the store closes. A new leader
// passes a barrier, so that it has applied an entry of its own term before it
// answers reads.
func (s *Store) runLeadership() {
	seen := make(chan raft.Observation, 64)
	observer := raft.NewObserver(seen, false, func(o *raft.Observation) bool {
		switch data := o.Data.(type) {
		case raft.LeaderObservation:
			return true
		case raft.RaftState:
			if data == raft.Candidate {
				s.figures.candidacies.Add(1)
			}
			return true
		}
		return false
	})
	s.raft.RegisterObserver(observer)
	defer s.raft.DeregisterObserver(observer)
	for {
		s.noteLeadership()
		select {
		case <-seen:
		case <-s.closing:
			return
		}
	}
}

func (s *Store) noteLeadership() {
	var next Leadership
	for {
		term, leads := s.leadsIn()
		_, id := s.raft.LeaderWithID()
		next = Leadership{LeaderID: string(id), Term: term, Self: leads}
		if leads {
			next.LeaderID = s.cfg.NodeID
		} else if next.LeaderID == s.cfg.NodeID {
			next.LeaderID = ""
		}
		if again, stillLeads := s.leadsIn(); again == term && stillLeads == leads {
			break
		}
	}
	before, _ := s.leadership.get()
	if !s.leadership.set(next) {
		return
	}
	s.figures.led(before, next)
	s.log.Info("leadership", "leader", next.LeaderID, "term", next.Term, "self", next.Self)
	if next.Self {
		s.spawn(func() { s.becomeReady(next.Term) })
	}
}

// led counts what was seen of leaders. One that leads again, after none was known for a
// while, is no other.
func (f *figures) led(before, now Leadership) {
	if now.Self && (!before.Self || now.Term != before.Term) {
		f.won.Add(1)
	}
	if now.LeaderID == "" {
		return
	}
	if last := f.last.Swap(&now.LeaderID); last == nil || *last != now.LeaderID {
		f.leaders.Add(1)
	}
}

// becomeReady passes a barrier in the term and says so. It gives up when the term is over.
func (s *Store) becomeReady(term uint64) {
	for {
		// In doubt it goes on: once refilled, this node may still lead in the term.
		if now, leads := s.leadsIn(); !leads || now != term || s.fsm.failed() != nil {
			return
		}
		if got, err := s.Barrier(s.life); err == nil && got == term {
			s.leadership.setReady(term)
			return
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-s.closing:
			return
		}
	}
}
