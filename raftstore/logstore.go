package raftstore

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"github.com/hashicorp/raft-wal/metadb"
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

// openLog opens the log in dir, after it was looked through for damage. One that has gone is
// not begun again: the node would have forgotten votes and entries that others count on.
func openLog(dir string, is identity, log *slog.Logger) (logStore, error) {
	path, open := filepath.Join(dir, boltFileName), openBolt
	file := path
	if is.Log == LogWAL {
		path = filepath.Join(dir, walDir)
		file = filepath.Join(path, metadb.FileName)
		open = func(path string) (logStore, error) { return openWAL(path, log) }
	}
	if _, err := os.Stat(file); is.Begun && errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("raftstore: %s is missing, with all that this node has promised to others: restore it, or remove this node from the cluster, empty its directory, and let it join again", file)
	}
	return open(path)
}

const boltFileName = "raft.db"

func openBolt(path string) (logStore, error) {
	if err := beginBolt(path); err != nil {
		return nil, err
	}
	if err := checkBolt(path, logBuckets); err != nil {
		return nil, err
	}
	bolt, err := boltAt(path)
	if err != nil {
		return nil, err
	}
	return bolt, nil
}

// beginBolt makes a log where none is yet. After a crash it is there whole or not at all: what
// is left of one that bbolt had begun to write looks like damage.
func beginBolt(path string) error {
	info, err := os.Stat(path)
	if err == nil && info.Size() > 0 {
		return nil
	}
	part := path + partSuffix
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		err = os.RemoveAll(part)
	}
	if err != nil {
		return fmt.Errorf("raftstore: %w", err)
	}
	bolt, err := boltAt(part)
	if err != nil {
		return err
	}
	if err = bolt.Close(); err == nil {
		err = os.Rename(part, path)
	}
	if err != nil {
		return fmt.Errorf("raftstore: begin %s: %w", path, err)
	}
	return syncDir(filepath.Dir(path))
}

func boltAt(path string) (*raftboltdb.BoltStore, error) {
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
