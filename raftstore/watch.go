package raftstore

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
)

// Watch is a cursor over the shared history. It holds no events of its own: a
// slow reader costs nothing, until it falls off the end and gets ErrCompacted.
// Next must not be called concurrently; Close may be.
type Watch struct {
	store  *Store
	prefix string
	after  uint64 // everything up to it was returned; Next's own
	trials uint64 // of the FSM when the watch began
	// lookFrom is the first revision that concerns the watch and was not looked
	// at, 0 if there is none. Set under the FSM's mutex, cleared under its read lock.
	lookFrom atomic.Uint64
	wake     chan struct{} // of capacity one
	once     sync.Once
	closed   chan struct{}
}

// Watch begins a watch over the keys with a prefix, after a revision. It returns
// ErrCompacted if events after that revision are gone. A revision that this
// replica has not reached is waited for. Nothing happened before the first
// revision, so after 0 is after 1. The watch must be closed.
func (s *Store) Watch(prefix string, after uint64) (*Watch, error) {
	s.fsm.mu.RLock()
	trials := s.fsm.trials // before it is asked whether the replica is trusted
	s.fsm.mu.RUnlock()
	if err := s.err(); err != nil {
		return nil, err
	}
	after = max(after, firstRevision)
	if floor := s.fsm.floor(); after < floor {
		return nil, fmt.Errorf("watch after revision %d, events reach back to %d: %w", after, floor, ErrCompacted)
	}
	w := &Watch{store: s, prefix: prefix, after: after, trials: trials, wake: make(chan struct{}, 1), closed: make(chan struct{})}
	w.lookFrom.Store(after + 1)
	s.fsm.watchers.add(w)
	return w, nil
}

// Next returns the next events in order, blocking until there is at least one,
// or the store's revision has advanced, which is told a little later
// (progressPace) when it does not concern the prefix. When ctx ends, what has
// been reached by then is returned, if it is news. Every event of the prefix with
// a revision up to through has then been returned. Events are shared: read only.
func (w *Watch) Next(ctx context.Context) (events []Event, through uint64, err error) {
	for over := false; ; {
		if events, through, err = w.look(); err != nil {
			return nil, w.after, fmt.Errorf("watch after revision %d: %w", w.after, err)
		}
		if through > w.after {
			w.after = through
			return events, through, nil
		}
		if over {
			return nil, w.after, context.Cause(ctx)
		}
		select {
		case <-w.wake:
		case <-w.closed:
			return nil, w.after, ErrClosed
		case <-w.store.closing:
			return nil, w.after, ErrClosed
		case <-w.store.fsm.halted:
			return nil, w.after, w.store.fsm.haltErr
		case <-ctx.Done():
			over = true
		}
	}
}

// look takes what there is. A watch that nothing concerned is at the top without
// looking, and does not fall off however much else was written.
func (w *Watch) look() (events []Event, through uint64, err error) {
	f := w.store.fsm
	f.mu.RLock()
	defer f.mu.RUnlock()
	if w.trials != f.trials {
		// What its owner has read before may be wrong, though nothing was written since.
		return nil, w.after, fmt.Errorf("%w: %w", ErrCompacted, ErrDiffers)
	}
	top := f.history.top()
	if w.after > top {
		return nil, w.after, nil
	}
	from := w.lookFrom.Swap(0)
	if from == 0 {
		return nil, top, nil
	}
	events, through, err = f.history.after(w.prefix, max(w.after, from-1))
	if err != nil || through < top {
		w.lookFrom.Store(max(through, w.after) + 1)
	}
	return events, through, err
}

// Close ends the watch; a blocked Next returns ErrClosed.
func (w *Watch) Close() {
	w.once.Do(func() {
		close(w.closed)
		w.store.fsm.watchers.remove(w)
	})
}
