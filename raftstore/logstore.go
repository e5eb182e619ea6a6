package raftstore

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"kontiki/raftstore/internal/seeded"
)

// LogStore names what keeps Raft's log, term and votes in a store's directory. It
// is chosen when the directory is blank, and cannot be changed later.
type LogStore string

const (
	LogBolt LogStore = "boltdb" // raft.db (raft-boltdb/v2), the default
	LogWAL  LogStore = "wal"    // raft-wal/: writes faster; its makers call it experimental
)

// ParseLogStore reads a LogStore that a user named; empty leaves the choice open.
func ParseLogStore(s string) (LogStore, error) {
	switch l := LogStore(s); l {
	case "", LogBolt, LogWAL:
		return l, nil
	}
	return "", fmt.Errorf("%q is no log store: use %s or %s", s, LogBolt, LogWAL)
}

// logStore is Raft's log and stable store. What it has written is durable when it
// returns; a write that failed can be tried again.
type logStore interface {
	raft.LogStore
	raft.StableStore
	io.Closer
}

// openLog opens the log in dir, after it was looked through for damage.
func openLog(dir string, kind LogStore, log *slog.Logger) (logStore, error) {
	if kind == LogWAL {
		return openWAL(filepath.Join(dir, walDir), log)
	}
	return openBolt(filepath.Join(dir, boltFileName))
}

const boltFileName = "raft.db"

func openBolt(path string) (logStore, error) {
	if err := checkBolt(path, logBuckets); err != nil {
		return nil, err
	}
	bolt, err := raftboltdb.New(raftboltdb.Options{
		Path: path,
		BoltOptions: &bbolt.Options{
			NoFreelistSync: true, FreelistType: bbolt.FreelistMapType, Timeout: time.Second,
			NoSync: seeded.Error == seeded.Unsynced,
		},
		MsgpackUseNewTimeFormat: true,
	})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, inUse(path)
	}
	if err != nil {
		return nil, fmt.Errorf("raftstore: open %s: %w", path, err)
	}
	return bolt, nil
}

func inUse(path string) error {
	return fmt.Errorf("raftstore: %s is in use by another process", path)
}
