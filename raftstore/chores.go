package raftstore

import "time"

const markAfter = 2 * time.Second // of silence

// startChores starts what runs beside Raft for as long as the store is open.
func (s *Store) startChores() {
	s.spawn(s.runCommitMark)
}

// runCommitMark tells the disk what has been applied, and has it written once
// after writes have stopped. An idle store writes nothing.
func (s *Store) runCommitMark() {
	timer := time.NewTimer(markAfter)
	defer timer.Stop()
	for {
		s.fsm.mu.RLock()
		st, changed := s.fsm.current.Load(), s.fsm.changed
		s.fsm.mu.RUnlock()
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
