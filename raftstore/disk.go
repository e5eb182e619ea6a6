package raftstore

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
)

// The directory of a store holds
//
//	identity.json  whose data this is, and the format of all of it
//	raft.db        log and stable store (bbolt), or
//	raft-wal/      the same in segment files, if that was chosen
//	snapshots/     Raft's snapshots
const (
	// Format 1 is raft.db, and 2 the same with raft-wal/, both of before there were checksums
	// of terms and votes; 3 has them (sealed.go), with either log.
	dirFormatSealed = 3
	identityFile    = "identity.json"
	snapshotsKept   = 2
)

var (
	keyCommit = []byte("kontiki-commit")
	keyProbe  = []byte("kontiki-probe")

	keyCurrentTerm = []byte("CurrentTerm") // Raft's
)

const probeSize = 256 << 10

type identity struct {
	Format    int      `json:"format"`
	NodeID    string   `json:"nodeID"`
	ClusterID string   `json:"clusterID"`
	Log       LogStore `json:"log,omitempty"` // empty: LogBolt
	Epoch     Epoch    `json:"epoch,omitempty"`
	// Begun tells that there is a log: one that is missing is lost, and not blank.
	Begun bool `json:"begun,omitempty"`
}

// begin notes in a directory that its log is there.
func (is identity) begin(dir string) error {
	if is.Begun {
		return nil
	}
	is.Begun = true
	return is.write(dir)
}

func (is identity) write(dir string) error {
	b, err := json.MarshalIndent(is, "", "  ")
	if err != nil {
		return err
	}
	return writeDurably(filepath.Join(dir, identityFile), append(b, '\n'))
}

// claimDir makes the directory that of a node, cluster and epoch, or says whose it is,
// and returns what it is: its log is kept by wanted.Log, if that is given. It must run
// before anything else in the directory is opened.
func claimDir(dir string, wanted identity) (identity, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return wanted, fmt.Errorf("raftstore: %w", err)
	}
	is, err := readIdentity(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return newIdentity(dir, wanted)
	}
	if err != nil {
		return is, err
	}
	switch {
	case is.NodeID != wanted.NodeID:
		return is, fmt.Errorf("raftstore: %s belongs to node %s, this is node %s: give each node a directory of its own", dir, is.NodeID, wanted.NodeID)
	case is.ClusterID != wanted.ClusterID:
		return is, fmt.Errorf("raftstore: %s belongs to cluster %s, this node is of cluster %s: reset the directory to join", dir, is.ClusterID, wanted.ClusterID)
	case is.Epoch != wanted.Epoch:
		return is, fmt.Errorf("raftstore: %s belongs to epoch %s of the cluster, this node is of epoch %s: reset the directory to join", dir, is.Epoch, wanted.Epoch)
	case wanted.Log != "" && is.Log != wanted.Log:
		return is, fmt.Errorf("raftstore: %s keeps its log in %s, not in %s: start the node without that choice, or remove it from the cluster, empty its directory, and let it join again", dir, is.Log, wanted.Log)
	}
	return is, nil
}

// Holds tells whether a directory is one of a store, by its name for it.
func Holds(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, identityFile))
	return err == nil
}

// readIdentity says whose a directory is.
func readIdentity(dir string) (is identity, err error) {
	path := filepath.Join(dir, identityFile)
	b, err := os.ReadFile(path)
	if err != nil {
		return is, fmt.Errorf("raftstore: %w", err)
	}
	if err := json.Unmarshal(b, &is); err != nil {
		return is, fmt.Errorf("raftstore: %s: %w", path, err)
	}
	if is.Format > dirFormatSealed {
		return is, fmt.Errorf("raftstore: %s has format %d, this program knows %d: run the newer program", dir, is.Format, dirFormatSealed)
	}
	orDefault(&is.Log, LogBolt)
	return is, nil
}

// newIdentity writes the identity of a blank directory.
func newIdentity(dir string, is identity) (identity, error) {
	for _, log := range []string{boltFileName, walDir} {
		if _, err := os.Stat(filepath.Join(dir, log)); err == nil {
			return is, fmt.Errorf("raftstore: %s holds a log, but no %s that says whose it is: restore that file or begin with an empty directory", dir, identityFile)
		}
	}
	orDefault(&is.Log, LogBolt)
	is.Format = dirFormatSealed
	if err := is.write(dir); err != nil {
		return is, err
	}
	return is, syncDir(filepath.Dir(dir)) // which is new itself, as a rule
}

// writeDurably replaces a file so that a crash leaves the old or the new one.
func writeDurably(path string, b []byte) error {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("raftstore: %w", err)
	}
	_, err = f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("raftstore: write %s: %w", tmp, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("raftstore: %w", err)
	}
	return syncDir(filepath.Dir(path))
}

// disk is Raft's log and stable store. Besides that it remembers what is
// committed, which Raft does not: with each batch of entries (in the Extensions
// of the last one, so that it costs no write), and once after writes have stopped.
//
// Raft's own mechanism for this (RestoreCommittedLogs) is not used; DESIGN.md says why.
type disk struct {
	logStore
	dir       string
	sealed    bool // what is beside the commands has checksums, see sealed.go
	log       *slog.Logger
	committed atomic.Uint64 // an index known to be committed, i.e. applied here
	marked    uint64        // what markCommitted wrote last; its caller's
	closing   chan struct{}
	full      atomic.Bool // the last write failed
	cut       atomic.Bool // the log's end was removed, and nothing stored since
	terms     sync.Mutex  // held from the look at the term to its write

	around     func(write func() error) error
	stallAfter time.Duration
	stalled    func() // called when a write to the log takes longer
	wrote      func(began time.Time)
}

func newDisk(store logStore, dir string, is identity, log *slog.Logger) *disk {
	return &disk{logStore: store, dir: dir, sealed: is.Format >= dirFormatSealed, log: log,
		closing: make(chan struct{}), stallAfter: time.Hour, stalled: func() {}, wrote: func(time.Time) {},
		around: func(write func() error) error { return write() }}
}

// IsMonotonic tells Raft whether the log must not have gaps.
func (d *disk) IsMonotonic() bool {
	m, ok := d.logStore.(raft.MonotonicLogStore)
	return ok && m.IsMonotonic()
}

// StoreLogs stores entries together with the commit index known now. Behind an end that was cut
// off it waits for room, as Set does: should it fail then, Raft (v1.8.0, appendEntries) still takes
// the entries that are gone for the last ones, and refuses all until it is started again.
func (d *disk) StoreLogs(logs []*raft.Log) error {
	commit := d.committed.Load()
	if n := len(logs); n > 0 && !d.sealed {
		logs[n-1].Extensions = binary.BigEndian.AppendUint64(nil, commit)
	}
	if d.sealed {
		for _, l := range logs {
			sealEntry(l, commit)
		}
	}
	for {
		watchdog, began := time.AfterFunc(d.stallAfter, d.stalled), time.Now()
		err := d.around(func() error { return d.logStore.StoreLogs(logs) })
		watchdog.Stop()
		d.wrote(began)
		d.note("the log", err)
		if err == nil {
			d.cut.Store(false)
		}
		if err == nil || !d.cut.Load() || !d.again() {
			return err
		}
	}
}

// DeleteRange removes entries from the log's beginning, or from its end: then entries of the
// leader's follow, while a log that is removed whole, behind a snapshot, may be empty for long.
func (d *disk) DeleteRange(first, last uint64) error {
	begin, err := d.FirstIndex()
	if err != nil {
		return err
	}
	if err := d.logStore.DeleteRange(first, last); err != nil {
		return err
	}
	if first > begin {
		d.cut.Store(true)
	}
	return nil
}

// StoreLog stores one entry.
func (d *disk) StoreLog(l *raft.Log) error { return d.StoreLogs([]*raft.Log{l}) }

// Set and SetUint64 keep trying while the disk is full: Raft panics when its
// term or vote cannot be stored, and to wait is what a node without room must
// do. Close ends the wait; the transport is closed by then, so that nothing
// that was promised on top of the missing write leaves this node.
func (d *disk) Set(k, v []byte) error {
	return d.persist(func() error { return d.store(k, v) })
}

// SetUint64 is Set for numbers. A term does not go back: a later one may have been written
// while this one waited.
func (d *disk) SetUint64(k []byte, v uint64) error {
	return d.persist(func() error {
		d.terms.Lock()
		defer d.terms.Unlock()
		if bytes.Equal(k, keyCurrentTerm) {
			if now, err := d.GetUint64(k); err == nil && now > v {
				return nil
			}
		}
		return d.storeUint64(k, v)
	})
}

func (d *disk) persist(write func() error) error {
	for {
		err := d.around(write)
		d.note("term or vote", err)
		if err == nil || !d.again() {
			return nil
		}
	}
}

// again waits before a write that failed is tried again, and tells whether it is to be.
func (d *disk) again() bool {
	select {
	case <-time.After(250 * time.Millisecond):
		return true
	case <-d.closing:
		return false
	}
}

// canWrite tells whether a write can be expected to work. After one that failed
// it tries: on a full disk a vote may still find room where an entry does not.
func (d *disk) canWrite() bool {
	if !d.full.Load() {
		return true
	}
	err := d.around(func() error { return d.logStore.Set(keyProbe, make([]byte, probeSize)) })
	if err == nil {
		err = d.around(func() error { return d.logStore.Set(keyProbe, nil) })
	}
	d.note("a probe", err)
	return err == nil
}

// note logs when writing begins to fail and when it works again.
func (d *disk) note(what string, err error) {
	if failed := err != nil; d.full.Swap(failed) != failed {
		if failed {
			d.log.Error("cannot write to disk; nothing is acknowledged until it works again", "what", what, "error", err)
		} else {
			d.log.Info("writing to disk works again")
		}
	}
}

// markCommitted writes the commit index by itself, if the log does not hold it yet.
func (d *disk) markCommitted() error {
	c := d.committed.Load()
	if c == d.marked {
		return nil
	}
	if err := d.around(func() error { return d.storeUint64(keyCommit, c) }); err != nil {
		return err
	}
	d.marked = c
	return nil
}

// commitIndex is the highest index that the disk knows to be committed.
func (d *disk) commitIndex() (uint64, error) {
	marker, err := d.GetUint64(keyCommit)
	if err != nil && !errors.Is(err, raftboltdb.ErrKeyNotFound) {
		return 0, fmt.Errorf("raftstore: read the commit marker: %w", err)
	}
	last, err := d.LastIndex()
	if err != nil {
		return 0, fmt.Errorf("raftstore: read the end of the log: %w", err)
	}
	if last > 0 {
		var l raft.Log
		if err := d.GetLog(last, &l); err != nil {
			return 0, fmt.Errorf("raftstore: read log entry %d: %w", last, err)
		}
		if len(l.Extensions) == extensionCommit || len(l.Extensions) == extensionSealed {
			marker = max(marker, binary.BigEndian.Uint64(l.Extensions))
		}
	}
	d.marked = marker
	return marker, nil
}

// replay brings the replica to where it stood: the newest snapshot, then the log
// up to the commit index. It needs no quorum.
func (d *disk) replay(f *fsm, snapshots raft.SnapshotStore) error {
	list, err := snapshots.List()
	if err != nil {
		return fmt.Errorf("raftstore: list snapshots: %w", err)
	}
	commit, err := d.commitIndex()
	if err != nil {
		return err
	}
	from, err := d.restoreNewest(f, snapshots, list)
	if err != nil {
		return err
	}
	commit = max(commit, newest(list))
	last, err := d.LastIndex()
	if err != nil {
		return fmt.Errorf("raftstore: read the end of the log: %w", err)
	}
	if len(list) > 0 && from < list[0].Index && last < list[0].Index {
		return fmt.Errorf("raftstore: snapshot %s is damaged and the log ends before it at entry %d: remove this node from the cluster, empty its directory, and let it join again", list[0].ID, last)
	}
	if reach := max(last, newest(list)); commit > reach {
		return fmt.Errorf("raftstore: the log in %s is damaged: it ends at entry %d, and entry %d was committed: remove this node from the cluster, empty its directory, and let it join again", d.dir, reach, commit)
	}
	if err := d.replayLog(f, from, min(commit, last)); err != nil {
		return err
	}
	d.committed.Store(max(from, min(commit, last)))
	return nil
}

// replayLog applies the entries after from, up to last.
func (d *disk) replayLog(f *fsm, from, last uint64) error {
	for i := from + 1; i <= last; i++ {
		var l raft.Log
		if err := d.GetLog(i, &l); err != nil {
			return fmt.Errorf("raftstore: log entry %d, needed after the snapshot at %d, cannot be read: %w", i, from, err)
		}
		if l.Type == raft.LogCommand {
			f.Apply(&l)
		}
		if err := f.failed(); err != nil {
			return err
		}
	}
	return nil
}

// newest is the index of the newest snapshot, readable or not; 0 without any.
func newest(list []*raft.SnapshotMeta) uint64 {
	if len(list) == 0 {
		return 0
	}
	return list[0].Index
}

// restoreNewest loads the newest snapshot that can be read and returns its index.
func (d *disk) restoreNewest(f *fsm, snapshots raft.SnapshotStore, list []*raft.SnapshotMeta) (uint64, error) {
	var failed error
	for _, meta := range list {
		_, source, err := snapshots.Open(meta.ID)
		if err == nil {
			err = f.Restore(source)
		}
		if err == nil {
			return meta.Index, nil
		}
		if errors.Is(err, errUnknownVersion) {
			return 0, err
		}
		d.log.Error("a snapshot cannot be read", "snapshot", meta.ID, "error", err)
		failed = errors.Join(failed, fmt.Errorf("snapshot %s: %w", meta.ID, err))
	}
	first, err := d.FirstIndex()
	if err == nil && first <= 1 && (first == 1 || failed == nil) {
		return 0, nil // the whole history is in the log
	}
	return 0, errors.Join(fmt.Errorf("raftstore: no snapshot in %s can be read, and the log begins at entry %d: "+
		"remove this node from the cluster, empty its directory, and let it join again", filepath.Join(d.dir, "snapshots"), first), failed, err)
}
