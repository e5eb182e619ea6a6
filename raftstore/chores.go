package raftstore

import (
	"context"
	"encoding/binary"
	"time"
)

const (
	markAfter   = 2 * time.Second // of silence, the commit marker is written
	choreTime   = 10 * time.Second
	choreWait   = 100 * time.Millisecond // after a chore failed
	expireBatch = 256                    // keys removed before the clock is read again
)

// startChores starts what runs beside Raft for as long as the store is open.
// None of it has a ticker: an idle store does nothing.
func (s *Store) startChores() {
	s.spawn(s.runPush)
	s.spawn(s.runProgress)
	s.spawn(s.runCommitMark)
	s.spawn(s.runExpiry)
	s.spawn(s.runGate)
	if s.cfg.EventAge > 0 {
		s.spawn(s.runCompaction)
	}
}

// snapshotState returns the state and a channel that is closed when it changes.
func (f *fsm) snapshotState() (*state, <-chan struct{}) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.current.Load(), f.changed
}

// progressPace is how often watches are told, under writes, of a revision that
// does not concern them.
const progressPace = 100 * time.Millisecond

func (s *Store) runProgress() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		st, changed := s.fsm.snapshotState()
		s.fsm.watchers.tellAll(false)
		for told := st.revision; st.revision == told; st, changed = s.fsm.snapshotState() {
			select {
			case <-changed:
			case <-s.closing:
				return
			}
		}
		timer.Reset(progressPace)
		select {
		case <-timer.C:
		case <-s.closing:
			return
		}
	}
}

// runCommitMark tells the disk what has been applied, and has it written once
// after writes have stopped.
func (s *Store) runCommitMark() {
	timer := time.NewTimer(markAfter)
	defer timer.Stop()
	for {
		st, changed := s.fsm.snapshotState()
		if st.index > s.disk.committed.Load() {
			s.disk.committed.Store(st.index)
		}
		select {
		case <-changed:
			timer.Reset(markAfter)
		case <-timer.C:
			if err := s.disk.markCommitted(); err != nil {
				s.log.Warn("the commit marker was not written; a restart without a quorum would show an older state", "error", err)
				timer.Reset(markAfter)
			}
		case <-s.closing:
			return
		}
	}
}

// nextExpiry is the key that ends first.
func (s *state) nextExpiry() (unix int64, key string, ok bool) {
	b, key, ok := s.expiry.Root().Minimum()
	if !ok {
		return 0, "", false
	}
	return int64(binary.BigEndian.Uint64(b)), key, true
}

// runExpiry removes, while this node leads, keys whose time is over. The FSM has
// no clock: a removal is a transaction like any other.
func (s *Store) runExpiry() {
	for {
		l, led := s.leadership.get()
		st, changed := s.fsm.snapshotState()
		unix, _, some := st.nextExpiry()
		wait := time.Unix(unix, 0).Sub(s.cfg.Now())
		switch {
		case !l.Self:
			changed = nil // of no interest
		case some && wait <= 0:
			if s.expire(st, l.Term) {
				continue
			}
			wait = choreWait
		}
		timer := time.NewTimer(wait)
		if !l.Self || !some {
			timer.Stop()
		}
		select {
		case <-led:
		case <-changed:
		case <-timer.C:
		case <-s.closing:
			timer.Stop()
			return
		}
		timer.Stop()
	}
}

// expire removes expired keys of st, unless they have changed since.
func (s *Store) expire(st *state, term uint64) bool {
	ctx, cancel := context.WithTimeout(s.life, choreTime)
	defer cancel()
	now, n, ok := s.cfg.Now().Unix(), 0, true
	st.expiry.Root().Walk(func(b []byte, key string) bool {
		if n++; n > expireBatch || int64(binary.BigEndian.Uint64(b)) > now {
			return true
		}
		kv, _ := st.keys.Get([]byte(key))
		_, err := s.Apply(ctx, Txn{
			Compares: []Compare{{Key: key, ModRevision: kv.ModRevision}},
			Ops:      []Op{{Kind: OpDelete, Key: key}},
			Term:     term,
		})
		ok = err == nil
		return !ok
	})
	return ok
}

// mark says which revision the store had at some time.
type mark struct {
	at       time.Time
	revision uint64
}

// marksPerAge is how many steps history is compacted in.
const marksPerAge = 5

// runCompaction lets the leader compact history by age. All nodes take marks, so
// that a new leader knows ages, too. When writes stop, the last mark is
// compacted to, and then there is none left.
func (s *Store) runCompaction() {
	var marks []mark
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		l, led := s.leadership.get()
		st, changed := s.fsm.snapshotState()
		now := time.Now()
		for len(marks) > 0 && marks[0].revision <= st.compacted {
			marks = marks[1:]
		}
		if n := len(marks); st.revision > st.compacted && (n == 0 || st.revision > marks[n-1].revision) {
			m := mark{now, st.revision}
			if n > 1 && now.Sub(marks[n-2].at) < s.cfg.EventAge/marksPerAge {
				marks[n-1] = m
			} else {
				marks = append(marks, m)
			}
		}
		timer.Stop()
		if len(marks) > 0 && l.Self {
			wait := s.cfg.EventAge - now.Sub(marks[0].at)
			if wait <= 0 && !s.compactTo(marks[0].revision) {
				wait = choreWait
			}
			timer.Reset(max(wait, time.Millisecond))
		}
		select {
		case <-led:
		case <-changed:
		case <-timer.C:
		case <-s.closing:
			return
		}
	}
}

func (s *Store) compactTo(revision uint64) bool {
	ctx, cancel := context.WithTimeout(s.life, choreTime)
	defer cancel()
	return s.Compact(ctx, revision) == nil
}
