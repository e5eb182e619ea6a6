package raftstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

const (
	batchCommands  = 64      // commands in one log entry
	batchBytes     = 1 << 20 // of one log entry, unless a single command is larger
	batchesFlying  = 4       // entries that wait for their commit
	partialFlying  = 2       // of them before one that is not full
	enqueueTimeout = time.Second
)

// errNotProposed is wrapped by errors of proposals that certainly did not get
// into the log; all other errors leave that open.
var errNotProposed = errors.New("not proposed")

// proposal is one encoded command on its way into the log.
type proposal struct {
	command []byte
	done    chan outcome // of capacity one
}

type outcome struct {
	result result
	err    error
}

// proposeHere gets a command into the log by this node, which must lead.
func (s *Store) proposeHere(ctx context.Context, command []byte) (result, error) {
	if err := s.fsm.doubted(); err != nil { // leadership is about to be handed over
		return result{}, fmt.Errorf("%w: %w", errNotProposed, err)
	}
	p := proposal{command, make(chan outcome, 1)}
	select {
	case s.proposals <- p:
	case <-ctx.Done():
		return result{}, fmt.Errorf("%w: %w", errNotProposed, context.Cause(ctx))
	case <-s.closing:
		return result{}, fmt.Errorf("%w: %w", errNotProposed, ErrClosed)
	}
	select {
	case o := <-p.done:
		if err := s.fsm.doubted(); err != nil && o.err == nil {
			// What a damaged replica made of the entry is not to be told; a retry gets what
			// the others have made of it.
			return result{}, err
		}
		return o.result, o.err
	case <-ctx.Done():
		return result{}, context.Cause(ctx)
	case <-s.raftDone:
		return result{}, ErrClosed
	}
}

// runBatcher gathers proposals into log entries: what arrives while earlier
// entries are on their way goes into one. Each entry costs a write to disk on
// every voter, so one that is not full waits for an earlier one to land.
func (s *Store) runBatcher() {
	var b batch
	for {
		if len(b.proposals) == 0 {
			select {
			case p := <-s.proposals:
				b.add(p)
			case <-s.closing:
				return
			}
		}
		if !s.gather(&b) {
			fail(b.proposals, fmt.Errorf("%w: %w", errNotProposed, ErrClosed))
			return
		}
		select {
		case s.flying <- struct{}{}: // has room, see gather, unless the store closes
		case <-s.closing:
			fail(b.proposals, fmt.Errorf("%w: %w", errNotProposed, ErrClosed))
			return
		}
		sent := b.take()
		commands := make([][]byte, len(sent))
		for i, p := range sent {
			commands[i] = p.command
		}
		began := time.Now()
		future := s.raft.Apply(encodeEntry(commands), enqueueTimeout)
		s.figures.batch.Observe(float64(len(sent)))
		go func() { // ends with the entry's fate; awaitFlying waits for it
			if deliver(sent, future) {
				since(s.figures.commit, began)
			}
			<-s.flying
			select {
			case s.landed <- struct{}{}:
			default: // the batcher will look
			}
		}()
	}
}

// batch is the next log entry in the making.
type batch struct {
	proposals []proposal
	bytes     int
}

func (b *batch) add(p proposal) {
	b.proposals = append(b.proposals, p)
	b.bytes += len(p.command)
}

// full tells whether no more is added; the last one may go into the next entry.
func (b *batch) full() bool { return len(b.proposals) >= batchCommands || b.bytes > batchBytes }

// take empties the batch, but for a last proposal that would make it too large.
func (b *batch) take() []proposal {
	out := b.proposals
	*b = batch{}
	if n := len(out); n > 1 {
		size := 0
		for _, p := range out {
			size += len(p.command)
		}
		if size > batchBytes {
			b.add(out[n-1])
			out = out[:n-1]
		}
	}
	return out
}

// gather adds what comes until the batch may leave; false if the store closes.
func (s *Store) gather(b *batch) bool {
	for {
		for !b.full() {
			select {
			case p := <-s.proposals:
				b.add(p)
				continue
			default:
			}
			break
		}
		flying := len(s.flying)
		if flying < partialFlying || b.full() && flying < batchesFlying {
			return true
		}
		more := s.proposals
		if b.full() {
			more = nil
		}
		select {
		case p := <-more:
			b.add(p)
		case <-s.landed:
		case <-s.closing:
			return false
		}
	}
}

// deliver tells the proposers of an entry what has become of it, once that is known; true
// if it was applied.
func deliver(sent []proposal, future raft.ApplyFuture) bool {
	if err := future.Error(); err != nil {
		switch {
		case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress), errors.Is(err, raft.ErrEnqueueTimeout):
			err = fmt.Errorf("%w: %w: %w", errNotProposed, ErrNotLeader, err)
		}
		fail(sent, err)
		return false
	}
	results, ok := future.Response().([]result)
	if !ok || len(results) != len(sent) {
		fail(sent, ErrHalted)
		return false
	}
	for i, p := range sent {
		p.done <- outcome{result: results[i]}
	}
	return true
}

func fail(sent []proposal, err error) {
	for _, p := range sent {
		p.done <- outcome{err: err}
	}
}

// awaitFlying waits for the fate of all entries, for some time.
func (s *Store) awaitFlying(limit time.Duration) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for range batchesFlying {
		select {
		case s.flying <- struct{}{}:
		case <-timer.C:
			return
		}
	}
}
