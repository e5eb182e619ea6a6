package raftstore

// ForceSnapshot has Raft take a snapshot and truncate its log now.
func (s *Store) ForceSnapshot() error { return s.raft.Snapshot().Error() }

// ProposeRaw puts bytes into the log as one entry.
func (s *Store) ProposeRaw(entry []byte) error { return s.raft.Apply(entry, enqueueTimeout).Error() }

// FutureEntry is a log entry with a command of a version that does not exist yet.
func FutureEntry() []byte { return encodeEntry([][]byte{{commandVersion + 1, 0xc0}}) }

// FirstLogIndex is the beginning of what is left of the log.
func (s *Store) FirstLogIndex() (uint64, error) { return s.disk.FirstIndex() }

// DiskWrites counts the transactions that have written to the log and stable store.
func (s *Store) DiskWrites() int64 {
	stats := s.disk.Stats()
	return stats.TxStats.GetWrite()
}

// CommitMarked tells whether the disk knows the present commit index.
func (s *Store) CommitMarked() bool {
	v, err := s.disk.GetUint64(keyCommit)
	return err == nil && v == s.fsm.current.Load().index
}
