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
	batchesFlying  = 4       // entries that wait for their commit; meanwhile others gather
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
		return o.result, o.err
	case <-ctx.Done():
		return result{}, context.Cause(ctx)
	case <-s.raftDone:
		return result{}, ErrClosed
	}
}

// runBatcher gathers proposals into log entries: what arrives while earlier
// entries are on their way goes into one.
func (s *Store) runBatcher() {
	var next *proposal // did not fit into the last batch
	for {
		var batch []proposal
		if next != nil {
			batch, next = append(batch, *next), nil
		} else {
			select {
			case p := <-s.proposals:
				batch = append(batch, p)
			case <-s.closing:
				return
			}
		}
		select {
		case s.flying <- struct{}{}:
		case <-s.closing:
			fail(batch, fmt.Errorf("%w: %w", errNotProposed, ErrClosed))
			return
		}
		batch, next = s.gather(batch)
		commands := make([][]byte, len(batch))
		for i, p := range batch {
			commands[i] = p.command
		}
		future := s.raft.Apply(encodeEntry(commands), enqueueTimeout)
		go func() { // ends with the entry's fate; awaitFlying waits for it
			deliver(batch, future)
			<-s.flying
		}()
	}
}

// gather adds what waits already, within the bounds of an entry.
func (s *Store) gather(batch []proposal) ([]proposal, *proposal) {
	size := len(batch[0].command)
	for len(batch) < batchCommands {
		select {
		case p := <-s.proposals:
			if size += len(p.command); size > batchBytes {
				return batch, &p
			}
			batch = append(batch, p)
		default:
			return batch, nil
		}
	}
	return batch, nil
}

func deliver(batch []proposal, future raft.ApplyFuture) {
	if err := future.Error(); err != nil {
		switch {
		case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress), errors.Is(err, raft.ErrEnqueueTimeout):
			err = fmt.Errorf("%w: %w: %w", errNotProposed, ErrNotLeader, err)
		}
		fail(batch, err)
		return
	}
	results, ok := future.Response().([]result)
	if !ok || len(results) != len(batch) {
		fail(batch, ErrHalted)
		return
	}
	for i, p := range batch {
		p.done <- outcome{result: results[i]}
	}
}

func fail(batch []proposal, err error) {
	for _, p := range batch {
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
