package raftstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// fsm holds this node's replica. Raft calls Apply, Snapshot and Restore from
// one goroutine; everything else may be called from anywhere.
type fsm struct {
	log     *slog.Logger
	knows   uint8                 // the latest version of commands that it reads
	current atomic.Pointer[state] // written under mu, by Raft's goroutine and by refills

	mu      sync.RWMutex
	history history
	changed chan struct{} // closed and replaced whenever current changes

	watchers *watchers

	recent recentDigests         // under mu
	doubt  atomic.Pointer[doubt] // nil while the replica is trusted; written under mu
	doubts chan struct{}         // of capacity one: told of a new doubt
	trials uint64                // how often the replica came into doubt; under mu

	persisted func(began time.Time) // told of each snapshot that was written

	configured atomic.Uint64 // index of the last configuration applied; 0: none was
	members    chan struct{} // closed and replaced whenever that changes; under mu

	haltOnce sync.Once
	halted   chan struct{} // closed when the replica can not go on
	haltErr  error         // set before halted is closed
}

func newFSM(log *slog.Logger, eventBytes int) *fsm {
	f := &fsm{log: log, knows: CommandVersion, changed: make(chan struct{}), members: make(chan struct{}), watchers: newWatchers(), halted: make(chan struct{}), doubts: make(chan struct{}, 1), persisted: func(time.Time) {}}
	f.history.limit, f.history.floor = eventBytes, firstRevision
	f.current.Store(newState())
	return f
}

func (s *state) view() View { return View{keys: s.keys, revision: s.revision} }

// Apply runs one committed entry. It returns []result. An entry that this
// program cannot read halts the replica before the entry: to skip it would make
// this replica differ from the others.
func (f *fsm) Apply(entry *raft.Log) any {
	if f.failed() != nil {
		return nil
	}
	if entry.Index <= f.current.Load().index {
		return nil // replayed by Raft after a start from disk
	}
	commands, err := decodeEntry(entry.Data, f.knows)
	if err != nil {
		f.halt(fmt.Errorf("log entry %d of term %d: %w", entry.Index, entry.Term, err))
		return nil
	}
	for {
		s := f.current.Load()
		next, results, events := s.apply(entry.Index, entry.Term, commands)
		if f.publish(s, next, events) {
			return results
		}
	}
}

// StoreConfiguration implements raft.ConfigurationStore. Raft keeps the index of its
// configuration to itself: GetConfiguration answers 0 for it (v1.8.0).
func (f *fsm) StoreConfiguration(index uint64, _ raft.Configuration) {
	f.configured.Store(index)
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.members)
	f.members = make(chan struct{})
}

// publish puts next in the place of s, of which it was made; false if a refill has
// done so with another state meanwhile.
func (f *fsm) publish(s, next *state, events []Event) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.current.Load() != s {
		return false
	}
	f.current.Store(next)
	f.recent.add(next)
	f.history.add(events, next.view())
	f.history.compact(next.compacted)
	f.watchers.tell(events)
	close(f.changed)
	f.changed = make(chan struct{})
	return true
}

// halt stops the replica for good.
func (f *fsm) halt(err error) {
	f.haltOnce.Do(func() {
		f.haltErr = fmt.Errorf("%w: %w", ErrHalted, err)
		f.log.Error("the replica has halted", "error", err)
		close(f.halted)
	})
}

func (f *fsm) failed() error {
	select {
	case <-f.halted:
		return f.haltErr
	default:
		return nil
	}
}

// Restore replaces the replica by a snapshot, unless it holds more already: a
// start from disk may be ahead of what Raft knows to be committed.
func (f *fsm) Restore(source io.ReadCloser) error {
	defer source.Close()
	next, err := readSnapshot(source)
	if err == nil && next.gate > f.knows {
		err = tooOld(next.gate, f.knows)
	}
	if errors.Is(err, errUnknownVersion) {
		f.halt(err) // there is no other way for this replica to go on
	}
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.current.Load(); s.index > 0 && next.index <= s.index {
		return nil
	}
	f.replaceLocked(next)
	return nil
}

// replaceLocked puts another state in the place of the present one: whoever followed
// that has to begin anew.
func (f *fsm) replaceLocked(next *state) {
	f.current.Store(next)
	f.recent = recentDigests{}
	f.recent.add(next)
	f.doubt.Store(nil)
	f.history.reset(next.revision)
	f.tellAllLocked()
}

// tellAllLocked wakes all who wait for a change, and has watches look.
func (f *fsm) tellAllLocked() {
	f.watchers.tellAll(true)
	close(f.changed)
	f.changed = make(chan struct{})
}

// Snapshot is O(1): the state is immutable.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	if err := f.failed(); err != nil {
		return nil, err // Raft would drop log entries that were not applied
	}
	if err := f.doubted(); err != nil {
		return nil, err // Raft would drop log entries that a right state may need
	}
	return snapshot{f.current.Load(), f.distrust, f.persisted}, nil
}

// waitFor returns the first state for which done is true.
func (f *fsm) waitFor(ctx context.Context, done func(*state) bool) (*state, error) {
	for {
		f.mu.RLock()
		s, changed, doubt := f.current.Load(), f.changed, f.doubt.Load()
		f.mu.RUnlock()
		if doubt != nil {
			return s, doubt.err
		}
		if done(s) {
			return s, nil
		}
		select {
		case <-changed:
		case <-f.halted:
			return s, f.haltErr
		case <-ctx.Done():
			return s, context.Cause(ctx)
		}
	}
}

func (f *fsm) viewAt(revision uint64) (View, error) {
	f.mu.RLock()
	from, events, err := f.history.base(revision, f.current.Load().view())
	events = slices.Clone(events) // compaction clears what it drops
	f.mu.RUnlock()
	if err != nil {
		return View{}, err
	}
	return undo(from, events), nil
}

func (f *fsm) floor() uint64 {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.history.floor
}
