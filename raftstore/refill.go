package raftstore

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/raft"
)

const (
	refillWait    = 20 * time.Millisecond // after a try that failed, doubled each time
	refillWaitMax = 5 * time.Second
	refillTime    = 5 * time.Minute // for one try
)

// runRefill fills this replica anew whenever it is in doubt, and tries until that is done.
func (s *Store) runRefill() {
	for {
		select {
		case <-s.fsm.doubts:
		case <-s.closing:
			return
		}
		for wait := refillWait; ; wait = min(2*wait, refillWaitMax) {
			doubt := s.fsm.doubt.Load()
			if doubt == nil {
				break // Raft has installed a snapshot meanwhile
			}
			err := s.refill(doubt)
			if err == nil {
				s.refills.Add(1)
				s.log.Info("this node's replica is refilled and serves again", "after", time.Since(doubt.since))
				if s.cfg.Refilled != nil {
					s.cfg.Refilled(doubt.err)
				}
				break
			}
			if s.life.Err() == nil {
				s.log.Warn("this node's replica cannot be refilled yet", "error", err)
			}
			select {
			case <-time.After(wait):
			case <-s.closing:
				return
			}
		}
	}
}

// refill gets a right state: from the leader, or, where there is none, from this
// node's own disk, whose snapshots and log have checksums. A disk does not help
// against what the others hold differently: it may have made this state.
func (s *Store) refill(d *doubt) error {
	ctx, cancel := context.WithTimeout(s.life, refillTime)
	defer cancel()
	if _, leads := s.leadsIn(); leads && s.otherVoters() {
		return s.stepAside()
	}
	leader := s.Leadership()
	if !leader.Self && leader.LeaderID != "" {
		next, err := s.fetch(ctx, leader.LeaderID)
		if err != nil {
			return fmt.Errorf("ask the leader, node %s, for the state: %w", leader.LeaderID, err)
		}
		return s.adopt(ctx, next, !d.own)
	}
	if !d.own {
		return errors.New("no leader is known to ask for the state")
	}
	next, err := s.rebuild()
	if err != nil {
		return fmt.Errorf("make the state from disk: %w", err)
	}
	return s.adopt(ctx, next, false)
}

// stepAside gives leadership to another voter. It returns why this node is not refilled yet.
func (s *Store) stepAside() error {
	term, leads := s.leadsIn()
	if !leads {
		return errors.New("another node begins to lead")
	}
	if err := s.transferLeadership(s.raft.LeadershipTransfer); err != nil {
		s.transport.silent.Store(term) // the others elect a leader
		return fmt.Errorf("hand leadership over: %w", err)
	}
	return errors.New("leadership is handed over first")
}

// fetch reads the leader's state.
func (s *Store) fetch(ctx context.Context, leader string) (*state, error) {
	source, err := s.caller.flow(ctx, leader, callExport)
	if err != nil {
		return nil, err
	}
	defer source.Close()
	next, err := readSnapshot(source)
	if err != nil {
		return nil, err
	}
	return next, nil
}

// export writes the present state as a snapshot.
func (s *Store) export(w io.Writer) error {
	if err := s.err(); err != nil {
		return err
	}
	b := bufio.NewWriterSize(w, flowPiece)
	err := writeSnapshot(b, s.fsm.current.Load())
	if errors.Is(err, errContents) {
		s.fsm.distrust(err)
	}
	if err != nil {
		return err
	}
	return b.Flush()
}

// rebuild makes the state from the newest snapshot and the log on disk, up to what this
// replica has applied.
func (s *Store) rebuild() (*state, error) {
	list, err := s.snapshots.List()
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	scratch := newFSM(s.log, 0)
	from, err := s.disk.restoreNewest(scratch, s.snapshots, list)
	if err != nil {
		return nil, err
	}
	if err := s.disk.replayLog(scratch, from, s.fsm.current.Load().index); err != nil {
		return nil, err
	}
	return scratch.current.Load(), nil
}

// adopt puts next in the place of the damaged state, once the entries that this replica
// has applied since next were applied to it, too. With sure, the snapshots on disk are
// replaced: they may hold what the others do not.
func (s *Store) adopt(ctx context.Context, next *state, sure bool) error {
	for {
		now, changed := s.fsm.snapshotState()
		if now.index < next.index { // the leader is ahead; Raft goes on feeding this replica
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				return fmt.Errorf("wait for log entry %d, this node has applied %d: %w", next.index, now.index, context.Cause(ctx))
			}
		}
		var err error
		if next, err = s.catchUp(next, now.index); err != nil {
			return err
		}
		if s.fsm.replaceAt(next) {
			break
		}
	}
	if !sure {
		return nil
	}
	for range snapshotsKept { // the newest push out what is older
		if err := s.raft.Snapshot().Error(); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
			s.log.Error("the replica is right again, but its snapshot is not replaced: after a restart it may have to be refilled once more", "error", err)
			break
		}
	}
	return nil
}

// catchUp applies entries of the log to a state.
func (s *Store) catchUp(st *state, to uint64) (*state, error) {
	for i := st.index + 1; i <= to; i++ {
		var l raft.Log
		if err := s.logs.GetLog(i, &l); err != nil {
			return nil, fmt.Errorf("log entry %d: %w", i, err)
		}
		if l.Type != raft.LogCommand {
			continue
		}
		commands, err := decodeEntry(l.Data, s.cfg.commandVersion)
		if err != nil {
			return nil, fmt.Errorf("log entry %d: %w", i, err)
		}
		st, _, _ = st.apply(l.Index, l.Term, commands)
	}
	return st, nil
}

// replaceAt puts next in the place of a state of the same index.
func (f *fsm) replaceAt(next *state) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.current.Load().index != next.index {
		return false
	}
	f.replaceLocked(next)
	return true
}
