package raftstore

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/segment"
	"golang.org/x/sys/unix"
)

const (
	walDir = "raft-wal"
	// walSegment is the size of one file of the log, which is allocated at once.
	// Between two of them a write waits for a new file.
	walSegment = 16 << 20
	// walRetry is the least time between two tries to open the log anew.
	walRetry = time.Second
)

// walLog is a log in segment files (raft-wal). Three things are added to it: a
// lock, since the module waits for ever for a directory that is in use; a look at
// each entry's checksum when it is opened, since the module trusts sealed segments;
// and an end to failed writes, after which the module's memory and its file differ.
type walLog struct {
	dir  string
	log  *raftLogger
	lock *os.File

	mu     sync.RWMutex // held for writing while the log is opened anew
	wal    *wal.WAL     // nil: it could not be opened after a failed write
	closed bool         // by Close: it is not to be opened anew

	// writing is held for a whole write, and taken before mu: Raft removes what a
	// snapshot holds while it appends. It protects what follows.
	writing sync.Mutex
	last    uint64    // index of the last entry that is known to be stored
	failed  bool      // a write has failed since the log was opened
	tried   time.Time // when it was last tried in vain to open the log anew
	tryErr  error     // and what came of it
}

// walBuckets are what raft-wal keeps in wal-meta.db: which segments there are, and Raft's settings.
var walBuckets = map[string]visitor{
	metadb.MetaBucket: func(key, value []byte, flags uint32) error {
		if string(key) != metadb.MetaKey || flags != 0 || !json.Valid(value) {
			return fmt.Errorf("%q does not tell which segments there are", key)
		}
		return nil
	},
	metadb.StableBucket: checkSetting,
}

func openWAL(dir string, log *slog.Logger) (_ *walLog, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("raftstore: %w", err)
	}
	l := &walLog{dir: dir, log: newRaftLogger(log)}
	if l.lock, err = os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, fmt.Errorf("raftstore: %w", err)
	}
	if err := unix.Flock(int(l.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = inUse(dir)
		}
		return nil, errors.Join(err, l.lock.Close())
	}
	if err = checkBolt(filepath.Join(dir, metadb.FileName), walBuckets); err == nil {
		err = l.open()
	}
	if err == nil {
		err = l.check()
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (l *walLog) open() error {
	meta, files := &metadb.BoltMetaDB{}, newWALFiles()
	w, err := wal.Open(l.dir, wal.WithMetaStore(meta), wal.WithSegmentFiler(segment.NewFiler(l.dir, files)),
		wal.WithSegmentSize(walSegment), wal.WithLogger(l.log))
	if err != nil {
		files.close()
		return errors.Join(fmt.Errorf("raftstore: open the log in %s: %w", l.dir, err), meta.Close())
	}
	files.settle()
	l.wal = w
	return nil
}

// check reads every entry.
func (l *walLog) check() error {
	first, err := l.wal.FirstIndex()
	if err == nil {
		l.last, err = l.wal.LastIndex()
	}
	if err != nil {
		return fmt.Errorf("raftstore: read the ends of the log in %s: %w", l.dir, err)
	}
	for i := max(first, 1); i <= l.last; i++ {
		var e raft.Log
		err := l.wal.GetLog(i, &e)
		if err == nil {
			err = checkEntry(i, &e)
		}
		if err != nil {
			return fmt.Errorf("raftstore: %s is damaged: log entry %d: %w: remove this node from the cluster, empty its directory, and let it join again", l.dir, i, err)
		}
	}
	return nil
}

// use calls f with the log while it is open.
func (l *walLog) use(f func(*wal.WAL) error) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.wal == nil {
		return fmt.Errorf("raftstore: the log in %s is not open: a write to it failed", l.dir)
	}
	return f(l.wal)
}

func (l *walLog) FirstIndex() (first uint64, err error) {
	err = l.use(func(w *wal.WAL) error { first, err = w.FirstIndex(); return err })
	return first, err
}

func (l *walLog) LastIndex() (last uint64, err error) {
	err = l.use(func(w *wal.WAL) error { last, err = w.LastIndex(); return err })
	return last, err
}

func (l *walLog) GetLog(index uint64, e *raft.Log) error {
	return l.use(func(w *wal.WAL) error {
		first, err := w.FirstIndex()
		if err == nil && index < first {
			return raft.ErrLogNotFound // the module may still find what was removed
		}
		if err == nil {
			err = w.GetLog(index, e)
		}
		if errors.Is(err, wal.ErrNotFound) {
			return raft.ErrLogNotFound
		}
		return err
	})
}

func (l *walLog) Get(key []byte) (value []byte, err error) {
	err = l.use(func(w *wal.WAL) error { value, err = w.Get(key); return err })
	return value, err
}

func (l *walLog) GetUint64(key []byte) (value uint64, err error) {
	err = l.use(func(w *wal.WAL) error { value, err = w.GetUint64(key); return err })
	return value, err
}

func (l *walLog) Set(key, value []byte) error {
	return l.keep(func(w *wal.WAL) error { return w.Set(key, value) })
}

func (l *walLog) SetUint64(key []byte, value uint64) error {
	return l.keep(func(w *wal.WAL) error { return w.SetUint64(key, value) })
}

// keep changes what is beside the entries; one that fails leaves them as they were.
func (l *walLog) keep(change func(*wal.WAL) error) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	if err := l.mend(); err != nil {
		return err
	}
	return l.use(change)
}

func (l *walLog) StoreLog(e *raft.Log) error { return l.StoreLogs([]*raft.Log{e}) }

// StoreLogs appends. What lies behind a gap goes first: a snapshot stands for it, and Raft, which
// empties the log then, does not try again if that fails or a crash comes before it (v1.8.0,
// installSnapshot). The module would refuse to append for ever.
func (l *walLog) StoreLogs(entries []*raft.Log) error {
	if len(entries) == 0 {
		return nil
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	if err := l.mend(); err != nil {
		return err
	}
	var first, last uint64
	err := l.use(func(w *wal.WAL) (err error) {
		if first, err = w.FirstIndex(); err == nil {
			last, err = w.LastIndex()
		}
		return err
	})
	if err == nil && last > 0 && entries[0].Index > last+1 {
		err = l.write(first-1, func(w *wal.WAL) error { return w.DeleteRange(first, last) })
	}
	if err != nil {
		return err
	}
	return l.write(entries[len(entries)-1].Index, func(w *wal.WAL) error { return w.StoreLogs(entries) })
}

// DeleteRange removes entries at the beginning or at the end.
func (l *walLog) DeleteRange(from, to uint64) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	last := l.last
	if to >= last {
		last = from - 1 // if it was all of the log, what comes next may be anything
	}
	return l.write(last, func(w *wal.WAL) error { return w.DeleteRange(from, to) })
}

// write changes the log, whose last entry is then that of index last.
func (l *walLog) write(last uint64, change func(*wal.WAL) error) error {
	if err := l.mend(); err != nil {
		return err
	}
	if err := l.use(change); err != nil {
		l.failed = true
		return err
	}
	l.last = last
	return nil
}

// mend opens the log anew after a write that failed.
func (l *walLog) mend() error {
	if !l.failed {
		return nil
	}
	if l.tryErr != nil && time.Since(l.tried) < walRetry {
		return l.tryErr
	}
	if l.tryErr = l.reopen(); l.tryErr != nil {
		l.tried = time.Now()
		return l.tryErr
	}
	l.failed = false
	return nil
}

// reopen reads the log from its files again, and removes what a failed write may
// have left of itself: Raft holds it for not written.
func (l *walLog) reopen() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return fmt.Errorf("raftstore: the log in %s is closed", l.dir)
	}
	if l.wal != nil {
		err := l.wal.Close()
		l.wal = nil
		if err != nil {
			return fmt.Errorf("raftstore: close the log in %s: %w", l.dir, err)
		}
	}
	if err := l.open(); err != nil {
		return err
	}
	last, err := l.wal.LastIndex()
	if err == nil && last > l.last {
		err = l.wal.DeleteRange(l.last+1, last)
	}
	return err
}

// IsMonotonic tells Raft that the log can have no gap: Raft empties it before it
// goes on from a snapshot.
func (l *walLog) IsMonotonic() bool { return true }

func (l *walLog) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	var err error
	if l.wal != nil {
		err = l.wal.Close()
		l.wal = nil
	}
	return errors.Join(err, l.lock.Close())
}
