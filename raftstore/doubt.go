package raftstore

import (
	"context"
	"fmt"
	"time"
)

// A replica that holds something else than what was written is in doubt: it is not
// read, does not lead, writes no snapshot, and refills itself (refill.go). It goes on
// to store entries and to vote, which its log suffices for, and to apply entries to
// what it has, so that it knows how far the others are.
//
// It learns of it in three ways: its own scrub finds that what lies in memory is not
// what was written; a snapshot that it writes shows the same; or the leader finds,
// comparing digests, that most others hold something else (compare.go).

// doubt says why a replica is not trusted.
type doubt struct {
	err   error // wraps ErrDiffers
	own   bool  // the replica has found out by itself, without others
	since time.Time
}

// distrust puts the replica in doubt for what it has found in itself.
func (f *fsm) distrust(reason error) { f.putInDoubt(reason, true) }

func (f *fsm) putInDoubt(reason error, own bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.doubt.Load() != nil {
		return
	}
	f.doubt.Store(&doubt{err: fmt.Errorf("%w: %w", ErrDiffers, reason), own: own, since: time.Now()})
	f.trials++
	f.tellAllLocked()
	f.log.Error("this node's replica is damaged; it is not read until it was refilled", "reason", reason)
	select {
	case f.doubts <- struct{}{}:
	default: // runRefill has not looked at the last one
	}
}

// doubted is the reason why the replica is not trusted, nil if it is.
func (f *fsm) doubted() error {
	if d := f.doubt.Load(); d != nil {
		return d.err
	}
	return nil
}

// AwaitServing waits while the replica is being refilled.
func (s *Store) AwaitServing(ctx context.Context) error {
	for {
		_, changed := s.fsm.snapshotState()
		if s.fsm.doubted() == nil {
			return s.err()
		}
		select {
		case <-changed:
		case <-s.closing:
			return ErrClosed
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// recentDigests are those of the last entries, so that replicas can be compared at one
// index while they go on. The zero value is ready to use.
type recentDigests struct {
	ring [digestsKept]indexedDigest
	next int
}

const digestsKept = 1024

type indexedDigest struct{ index, digest uint64 }

func (r *recentDigests) add(s *state) {
	r.ring[r.next%digestsKept] = indexedDigest{s.index, s.digest()}
	r.next++
}

func (r *recentDigests) at(index uint64) (digest uint64, known bool) {
	for i := r.next - 1; i >= max(0, r.next-digestsKept); i-- {
		if d := r.ring[i%digestsKept]; d.index <= index {
			return d.digest, d.index == index
		}
	}
	return 0, false
}

func (f *fsm) digestAt(index uint64) (digest uint64, known bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.recent.at(index)
}

const (
	scrubPause = 10 * time.Millisecond
	scrubSlice = 256 << 10 // bytes hashed between two pauses: some tens of microseconds
)

// runScrub hashes all that lies in memory anew from time to time, slowly: at 1% of a
// core at most. Memory can change while nothing is written, so an idle replica looks, too.
func (s *Store) runScrub() {
	timer := time.NewTimer(s.cfg.ScrubEvery)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-s.closing:
			return
		}
		s.scrubNow()
		timer.Reset(s.cfg.ScrubEvery)
	}
}

// scrubNow scrubs once, and puts the replica in doubt for what it finds; unless it was
// in doubt meanwhile: what was looked at is gone then.
func (s *Store) scrubNow() {
	trials := s.fsm.tried()
	s.figures.scrubs.Add(1)
	if err := s.scrub(s.life); err != nil && s.life.Err() == nil && s.fsm.tried() == trials {
		s.fsm.distrust(err)
	}
}

// tried counts how often the replica has come into doubt.
func (f *fsm) tried() uint64 {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.trials
}

// scrub looks at the present state, at its pace. The error is what was found, or that ctx
// has ended.
func (s *Store) scrub(ctx context.Context) error {
	pause := time.NewTimer(0)
	defer pause.Stop()
	seen := 0
	return s.fsm.current.Load().scrub(func(bytes int) error {
		if seen += bytes; seen < scrubSlice {
			return nil
		}
		seen = 0
		pause.Reset(scrubPause)
		select {
		case <-pause.C:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
}
