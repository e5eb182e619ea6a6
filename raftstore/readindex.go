package raftstore

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"kontiki/raftstore/internal/seeded"
)

// readPoint says how far a replica must have applied to answer a read.
type readPoint struct {
	Index uint64 // of the last entry with commands that the leader had committed
}

// Linearize returns a view that is not older than any write acknowledged before
// the call, by any node. It returns ErrNoQuorum if no leader can vouch for that
// until ctx ends.
//
// The leader asks a majority of voters for their terms after the read has
// arrived. Raft's VerifyLeader is not enough: it counts acknowledgements that
// were on their way before the read, so a leader that was paused may serve old values.
func (s *Store) Linearize(ctx context.Context) (View, error) {
	if err := s.err(); err != nil {
		return View{}, err
	}
	var p readPoint
	err := s.atLeader(ctx, func(ctx context.Context, leader Leadership) (err error) {
		if leader.Self {
			p, err = s.readPointHere(ctx)
			return err
		}
		return s.caller.call(ctx, leader.LeaderID, callReadIndex, struct{}{}, &p)
	})
	if err != nil {
		return View{}, noQuorum(err)
	}
	st, err := s.fsm.waitFor(ctx, func(st *state) bool { return st.index >= p.Index })
	if err != nil {
		return View{}, noQuorum(fmt.Errorf("this node has applied log entry %d, the read needs %d: %w", st.index, p.Index, err))
	}
	return st.view(), nil
}

// readRounds shares rounds of questions between concurrent readers: a reader
// joins the round that begins after it has arrived.
type readRounds struct {
	mu      sync.Mutex
	running bool
	next    *readRound // gathers readers while a round is running
}

type readRound struct {
	done  chan struct{}
	point readPoint
	err   error
}

// readPointHere confirms that this node still leads and returns what it has applied.
func (s *Store) readPointHere(ctx context.Context) (readPoint, error) {
	r := s.reads.join(s)
	select {
	case <-r.done:
		return r.point, r.err
	case <-ctx.Done():
		return readPoint{}, context.Cause(ctx)
	case <-s.closing:
		return readPoint{}, ErrClosed
	}
}

func (rr *readRounds) join(s *Store) *readRound {
	rr.mu.Lock()
	defer rr.mu.Unlock()
	if rr.next == nil {
		rr.next = &readRound{done: make(chan struct{})}
	}
	joined := rr.next
	if !rr.running {
		rr.running = s.spawn(func() { rr.run(s) })
	}
	return joined
}

// run runs rounds for as long as readers wait.
func (rr *readRounds) run(s *Store) {
	for {
		rr.mu.Lock()
		round := rr.next
		rr.next = nil
		if round == nil {
			rr.running = false
		}
		rr.mu.Unlock()
		if round == nil {
			return
		}
		began := time.Now()
		if round.point, round.err = s.readRound(); round.err == nil {
			since(s.figures.read, began)
		}
		close(round.done)
	}
}

const readRoundTime = time.Second

// readRound is right because a leader of a later term needs the votes of a
// majority, each of which has raised its term first: if now a majority is not
// beyond ours, no later leader has acknowledged anything yet.
func (s *Store) readRound() (readPoint, error) {
	term, leads := s.leadsIn()
	if !leads {
		return readPoint{}, fmt.Errorf("%w: %w", errNotProposed, ErrNotLeader)
	}
	// What earlier leaders have acknowledged is certain to be applied here only
	// once an entry of our own term is.
	if s.leadership.ready() != term {
		return readPoint{}, fmt.Errorf("%w: the leader has not applied an entry of its own term yet", errNotProposed)
	}
	index, err := s.lastCommitted()
	if err != nil {
		return readPoint{}, fmt.Errorf("%w: %w", errNotProposed, err)
	}
	switch seeded.Error {
	case seeded.UnconfirmedRead:
		return readPoint{index}, nil
	case seeded.CreditedRead:
		return readPoint{index}, s.raft.VerifyLeader().Error()
	}
	return readPoint{index}, s.confirmTerm(term)
}

// lastCommitted is the index of the last committed entry that holds commands.
// It is not what this node has applied: a follower can learn of a commit and
// apply it before the leader has, and a later read must not go back behind it.
func (s *Store) lastCommitted() (uint64, error) {
	commit := s.raft.CommitIndex()
	applied := s.fsm.current.Load().index
	for ; commit > applied; commit-- {
		var l raft.Log
		if err := s.logs.GetLog(commit, &l); err != nil {
			return 0, fmt.Errorf("read log entry %d: %w", commit, err)
		}
		if l.Type == raft.LogCommand {
			return commit, nil
		}
	}
	return applied, nil
}

// confirmTerm asks the voters for their terms until a majority is not beyond term.
func (s *Store) confirmTerm(term uint64) error {
	ctx, cancel := context.WithTimeout(s.life, readRoundTime)
	defer cancel()
	confirmed, voters := 0, 0
	servers := s.servers()
	answers := make(chan error, len(servers))
	for _, server := range servers {
		if server.Suffrage != raft.Voter {
			continue
		}
		voters++
		if string(server.ID) == s.cfg.NodeID {
			confirmed++
			continue
		}
		if !s.spawn(func() { answers <- s.askTerm(ctx, string(server.ID), term) }) {
			return ErrClosed
		}
	}
	need := voters/2 + 1
	for asked := voters - confirmed; confirmed < need; asked-- {
		if asked == 0 {
			return fmt.Errorf("%w: %d of %d voters confirm the leader", errNotProposed, confirmed, voters)
		}
		if err := <-answers; err == nil {
			confirmed++
		}
	}
	return nil
}

func (s *Store) askTerm(ctx context.Context, voter string, term uint64) error {
	var theirs uint64
	if err := s.caller.call(ctx, voter, callTerm, struct{}{}, &theirs); err != nil {
		return err
	}
	if theirs > term {
		return fmt.Errorf("node %s is in term %d", voter, theirs)
	}
	return nil
}
