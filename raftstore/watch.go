package raftstore

import (
	"context"
	"fmt"
	"sync"
)

// Watch is a cursor over the shared history. It holds no events of its own: a
// slow reader costs nothing, until it falls off the end and gets ErrCompacted.
// Next must not be called concurrently; Close may be.
type Watch struct {
	store  *Store
	prefix string
	after  uint64
	once   sync.Once
	closed chan struct{}
}

// Watch begins a watch over the keys with a prefix, after a revision. It returns
// ErrCompacted if events after that revision are gone. A revision that this
// replica has not reached is waited for. Nothing happened before the first
// revision, so after 0 is after 1.
func (s *Store) Watch(prefix string, after uint64) (*Watch, error) {
	if err := s.err(); err != nil {
		return nil, err
	}
	after = max(after, firstRevision)
	if floor := s.fsm.floor(); after < floor {
		return nil, fmt.Errorf("watch after revision %d, events reach back to %d: %w", after, floor, ErrCompacted)
	}
	return &Watch{store: s, prefix: prefix, after: after, closed: make(chan struct{})}, nil
}

// Next returns the next events in order, blocking until there is at least one
// or the store's revision has advanced. Every event of the prefix with a
// revision up to through has then been returned. Events are shared: read only.
func (w *Watch) Next(ctx context.Context) (events []Event, through uint64, err error) {
	f := w.store.fsm
	for {
		f.mu.RLock()
		changed, top := f.changed, f.history.top()
		if w.after <= top {
			events, through, err = f.history.after(w.prefix, w.after)
		} else {
			through = w.after
		}
		f.mu.RUnlock()
		if err != nil {
			return nil, w.after, fmt.Errorf("watch after revision %d: %w", w.after, err)
		}
		if through > w.after {
			w.after = through
			return events, through, nil
		}
		select {
		case <-changed:
		case <-w.closed:
			return nil, w.after, ErrClosed
		case <-w.store.closing:
			return nil, w.after, ErrClosed
		case <-f.halted:
			return nil, w.after, f.haltErr
		case <-ctx.Done():
			return nil, w.after, context.Cause(ctx)
		}
	}
}

// Close ends the watch; a blocked Next returns ErrClosed.
func (w *Watch) Close() { w.once.Do(func() { close(w.closed) }) }
