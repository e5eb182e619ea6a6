package raftstore

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/hashicorp/raft-wal/metadb"
)

// A log that has gone is not begun anew, by a node that may have voted and acknowledged; one
// that a crash has kept from coming is.
func TestMissingLog(t *testing.T) {
	for kind, file := range map[LogStore]string{LogBolt: boltFileName, LogWAL: filepath.Join(walDir, metadb.FileName)} {
		t.Run(string(kind), func(t *testing.T) {
			dir := t.TempDir()
			open := func() (logStore, error) {
				is, err := claimDir(dir, identity{NodeID: "n", ClusterID: "c", Log: kind})
				if err != nil {
					t.Fatal(err)
				}
				log, err := openLog(dir, is, slog.New(slog.DiscardHandler))
				if err == nil {
					err = is.begin(dir)
				}
				return log, err
			}
			if _, err := claimDir(dir, identity{NodeID: "n", ClusterID: "c", Log: kind}); err != nil {
				t.Fatal(err)
			}
			for range 2 { // after a crash before there was a log, and as ever
				log, err := open()
				if err != nil {
					t.Fatal(err)
				}
				if err := log.Close(); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Remove(filepath.Join(dir, file)); err != nil {
				t.Fatal(err)
			}
			if log, err := open(); err == nil || !strings.Contains(err.Error(), filepath.Join(dir, file)+" is missing") {
				t.Errorf("a log that has gone: %v", err)
				if err == nil {
					log.Close()
				}
			}
		})
	}
}

// A crash while bbolt makes its file leaves nothing that looks like damage.
func TestCrashWhileTheLogIsMade(t *testing.T) {
	for name, left := range map[string]struct {
		file  string
		bytes int
	}{
		"nothing in the file":     {boltFileName, 0},
		"no pages in what it was": {boltFileName + partSuffix, 8192},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), boltFileName)
			if err := os.WriteFile(filepath.Join(filepath.Dir(path), left.file), make([]byte, left.bytes), 0o600); err != nil {
				t.Fatal(err)
			}
			log, err := openBolt(path)
			if err != nil {
				t.Fatal(err)
			}
			defer log.Close()
			if err := log.StoreLog(&raft.Log{Index: 1, Term: 1, Type: raft.LogNoop}); err != nil {
				t.Error(err)
			}
			if all, err := filepath.Glob(path + "*"); err != nil || len(all) != 1 {
				t.Errorf("there are %q, %v", all, err)
			}
		})
	}
}

// What another process is writing is in use, and not damaged.
func TestLogInUseIsNotDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), boltFileName)
	log, err := openBolt(path)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	half, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = half.WriteAt(make([]byte, 4*os.Getpagesize()), 0) // a write that has come half of the way
	if err := half.Close(); err != nil {
		t.Error(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openBolt(path); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("it is said to be: %v", err)
	}
}
