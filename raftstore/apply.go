package raftstore

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Apply runs a transaction. On any node: it is forwarded to the leader, and
// retried until ctx ends, however often leaders change; it happens at most once.
// The errors are ErrTooLarge, ErrFenced, ErrClosed and ErrHalted, for which
// nothing was written, ErrNoQuorum, for which nothing was written unless it
// also wraps ErrOutcomeUnknown, and ErrOutcomeUnknown.
//
// A transaction whose compares fail is not an error.
func (s *Store) Apply(ctx context.Context, txn Txn) (TxnResult, error) {
	if err := s.err(); err != nil {
		return TxnResult{}, err
	}
	c, err := s.command(txn)
	if err != nil {
		return TxnResult{}, err
	}
	for {
		r, retry, err := s.applyOnce(ctx, c)
		if retry {
			continue
		}
		return r.Txn, err
	}
}

// command checks a transaction and makes a command of it, still without session.
func (s *Store) command(txn Txn) (*command, error) {
	c := &command{Kind: kindTxn, Term: txn.Term, Compares: txn.Compares, Ops: make([]operation, len(txn.Ops))}
	size, seen := 0, make(map[string]bool, len(txn.Ops))
	for i, op := range txn.Ops {
		switch {
		case op.Key == "":
			return nil, errors.New("raftstore: a transaction changes the empty key")
		case op.Kind != OpPut && op.Kind != OpDelete:
			return nil, fmt.Errorf("raftstore: key %q: unknown kind of change %d", op.Key, op.Kind)
		case seen[op.Key]:
			return nil, fmt.Errorf("raftstore: a transaction changes key %q twice", op.Key)
		case op.TTL < 0:
			return nil, fmt.Errorf("raftstore: key %q: the time to live is negative", op.Key)
		}
		seen[op.Key] = true
		size += len(op.Key) + len(op.Value)
		c.Ops[i] = operation{Kind: op.Kind, Key: op.Key, Value: op.Value}
		if op.Kind == OpDelete {
			c.Ops[i].Value = nil
		} else if op.TTL > 0 {
			// Rounded up: a key lives at least as long as asked for.
			c.Ops[i].ExpiresUnix = s.cfg.Now().Add(op.TTL + time.Second - 1).Unix()
		}
	}
	for _, cmp := range txn.Compares {
		size += len(cmp.Key) + 8
	}
	if size > s.cfg.MaxTxnBytes {
		return nil, fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, size, s.cfg.MaxTxnBytes)
	}
	return c, nil
}

// applyOnce runs a command under one ticket. retry means that certainly nothing
// has happened and that the session was at fault.
func (s *Store) applyOnce(ctx context.Context, c *command) (r result, retry bool, err error) {
	t, err := s.proposer.begin(ctx, s.openSession)
	if err != nil {
		return result{}, false, noQuorum(err)
	}
	defer s.proposer.end(t)
	c.Session, c.Sequence = t.session, t.sequence
	r, tries, err := s.propose(ctx, func() ([]byte, error) {
		c.Floor = s.proposer.floorOf(t)
		return s.encode(c)
	})
	switch {
	case err != nil && tries > 0:
		return r, false, fmt.Errorf("%w: %w", ErrOutcomeUnknown, noQuorum(err))
	case err != nil:
		return r, false, noQuorum(err)
	}
	switch r.Code {
	case codeDone:
		return r, false, nil
	case codeFenced:
		return r, false, ErrFenced
	case codeUnknownSession:
		s.proposer.lost(t.session)
		if tries == 1 {
			return r, true, nil // refused at the only try
		}
		return r, false, fmt.Errorf("%w: its session has ended", ErrOutcomeUnknown)
	default:
		return r, false, fmt.Errorf("%w: its session has moved on", ErrOutcomeUnknown)
	}
}

// noQuorum explains why a call that waits for the leader ended, for users.
func noQuorum(err error) error {
	if errors.Is(err, ErrClosed) || errors.Is(err, ErrHalted) || errors.Is(err, ErrDiffers) || errors.Is(err, ErrNoQuorum) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrNoQuorum, err)
}

func (s *Store) openSession(ctx context.Context) (uint64, error) {
	r, _, err := s.propose(ctx, func() ([]byte, error) {
		return s.encode(&command{Kind: kindOpen, Node: s.cfg.NodeID, Incarnation: s.incarnation})
	})
	return r.Session, err
}

// propose gets a command into the log through whoever leads, and tries again
// until ctx ends. tries counts those attempts after which it may be in the log.
func (s *Store) propose(ctx context.Context, encode func() ([]byte, error)) (r result, tries int, err error) {
	err = s.atLeader(ctx, func(ctx context.Context, leader Leadership) error {
		command, err := encode()
		if err != nil {
			return final(err)
		}
		if leader.Self {
			r, err = s.proposeHere(ctx, command)
		} else {
			r, err = s.proposeThere(ctx, leader.LeaderID, command)
		}
		if err == nil || !errors.Is(err, errNotProposed) {
			tries++
		}
		return err
	})
	return r, tries, err
}

// Compact makes history up to revision unavailable on every node: states below
// it and events up to it. It is logged by the leader.
func (s *Store) Compact(ctx context.Context, revision uint64) error {
	if err := s.err(); err != nil {
		return err
	}
	if now := s.fsm.current.Load().revision; revision > now {
		return fmt.Errorf("compact revision %d, the store is at %d: %w", revision, now, ErrFutureRevision)
	}
	_, _, err := s.propose(ctx, func() ([]byte, error) {
		return s.encode(&command{Kind: kindCompact, Revision: revision})
	})
	if err != nil {
		return noQuorum(err)
	}
	_, err = s.fsm.waitFor(ctx, func(st *state) bool { return st.compacted >= revision })
	return err
}
