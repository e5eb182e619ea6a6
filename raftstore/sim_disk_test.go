package raftstore

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"

	"kontiki/raftstore/internal/seeded"
)

// simDisk is the disk of a simulated node, which outlives its processes. A write is
// first in the cache of the kernel and then, when it has been synced, on the disk: a
// loss of power takes the end of what is not synced, or all of it.
type simDisk struct {
	mu        sync.Mutex
	random    *rand.Rand
	monotonic bool // as raft-wal: without gaps
	files     *simFiles
	unsynced  []simWrite
	life      int           // of the process that has it open
	off       chan struct{} // closed when that process ends

	slow time.Duration // most that a write takes
	full bool
	hang chan struct{} // not nil: writes wait until it is closed
	trap *simTrap

	writes, refused, lost int // counted
}

// simFiles is what a disk holds. A process whose end has come keeps what it saw: it
// may look once more before its goroutines end.
type simFiles struct {
	logs        map[uint64]raft.Log
	first, last uint64
	keys        map[string][]byte
	snapshots   []*simSnapshot // newest first
}

// simWrite takes back a write that was not synced.
type simWrite struct {
	at   time.Time
	undo func(*simFiles)
}

// simTrap crashes the node at a write to come.
type simTrap struct {
	what  string // log, vote, snapshot, or any
	after int    // so many of them
	when  string // before, torn (written, not synced), after (synced, not told), told (a little later)
	power bool   // is lost
	crash func() // the rest of the node; it does not wait
}

type simSnapshot struct {
	meta  raft.SnapshotMeta
	bytes []byte
}

var (
	errPowerOff = errors.New("the process is gone")
	// simWriteback is when a kernel writes by itself what nobody synced.
	simWriteback = 5 * time.Second
)

func newSimDisk(random *rand.Rand) *simDisk {
	return &simDisk{random: random, files: &simFiles{logs: make(map[uint64]raft.Log), keys: make(map[string][]byte)},
		off: make(chan struct{}), slow: time.Millisecond, monotonic: random.IntN(2) == 0}
}

// open gives the disk to a process.
func (d *simDisk) open() simLog {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.life++
	return simLog{d, d.files, d.life}
}

// crash ends the process that has the disk open. What it wrote and did not sync stays
// in the kernel, or is lost with the power.
func (d *simDisk) crash(power bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cut(power)
}

func (d *simDisk) cut(power bool) {
	d.life++
	close(d.off)
	d.off, d.trap = make(chan struct{}), nil
	d.files = &simFiles{maps.Clone(d.files.logs), d.files.first, d.files.last, maps.Clone(d.files.keys), slices.Clone(d.files.snapshots)}
	if !power {
		return
	}
	kept := d.random.IntN(len(d.unsynced) + 1)
	for _, w := range slices.Backward(d.unsynced[kept:]) {
		w.undo(d.files)
		d.lost++
	}
	d.unsynced = nil
}

// change makes a write: into the cache, and then to the disk.
func (d *simDisk) change(life int, what string, write func(*simFiles)) error {
	d.mu.Lock()
	if d.life != life {
		d.mu.Unlock()
		return errPowerOff
	}
	if d.full {
		d.refused++
		d.mu.Unlock()
		return syscall.ENOSPC
	}
	trap := d.spring(what)
	took, hang, off := time.Duration(d.random.Int64N(int64(d.slow))), d.hang, d.off
	if trap == nil || trap.when != "before" {
		write(d.files)
		d.writes++
	}
	if trap != nil && (trap.when == "before" || trap.when == "torn") {
		d.cut(trap.power)
		d.mu.Unlock()
		trap.crash()
		return errPowerOff
	}
	d.mu.Unlock()
	time.Sleep(took)
	if hang != nil {
		select {
		case <-hang:
		case <-off:
		}
	}
	d.mu.Lock()
	if d.life != life {
		d.mu.Unlock()
		return errPowerOff
	}
	d.sync()
	if trap != nil && trap.when == "after" {
		d.cut(trap.power)
		d.mu.Unlock()
		trap.crash()
		return errPowerOff
	}
	d.mu.Unlock()
	if trap != nil {
		time.AfterFunc(5*time.Millisecond, trap.crash)
	}
	return nil
}

// sync makes durable what is in the cache. A log that is not synced is written by the
// kernel some day.
func (d *simDisk) sync() {
	if seeded.Error != seeded.Unsynced {
		d.unsynced = nil
		return
	}
	for len(d.unsynced) > 0 && time.Since(d.unsynced[0].at) > simWriteback {
		d.unsynced = d.unsynced[1:]
	}
}

// spring counts a trap down and returns it when it is due.
func (d *simDisk) spring(what string) *simTrap {
	t := d.trap
	if t == nil || t.what != what && t.what != "any" {
		return nil
	}
	if t.after--; t.after > 0 {
		return nil
	}
	d.trap = nil
	return t
}

func (d *simDisk) wrote(undo func(*simFiles)) {
	d.unsynced = append(d.unsynced, simWrite{time.Now(), undo})
}

// simLog is what a process has of its disk: a logStore.
type simLog struct {
	disk  *simDisk
	files *simFiles
	life  int
}

func (l simLog) IsMonotonic() bool { return l.disk.monotonic }
func (l simLog) Close() error      { return nil }

func (l simLog) FirstIndex() (uint64, error) {
	l.disk.mu.Lock()
	defer l.disk.mu.Unlock()
	return l.files.first, nil
}

func (l simLog) LastIndex() (uint64, error) {
	l.disk.mu.Lock()
	defer l.disk.mu.Unlock()
	return l.files.last, nil
}

func (l simLog) GetLog(index uint64, e *raft.Log) error {
	l.disk.mu.Lock()
	defer l.disk.mu.Unlock()
	kept, ok := l.files.logs[index]
	if !ok {
		return raft.ErrLogNotFound
	}
	*e = kept
	return nil
}

func (l simLog) StoreLog(e *raft.Log) error { return l.StoreLogs([]*raft.Log{e}) }

// StoreLogs appends. Each entry can be lost by itself, from the end: more than a log
// store should do, and no more than Raft must bear.
func (l simLog) StoreLogs(entries []*raft.Log) error {
	d := l.disk
	if len(entries) == 0 {
		return nil
	}
	if last, _ := l.LastIndex(); d.monotonic && last != 0 && entries[0].Index != last+1 {
		return fmt.Errorf("entry %d after %d leaves a gap", entries[0].Index, last)
	}
	return d.change(l.life, "log", func(f *simFiles) {
		for _, e := range entries {
			before, had := f.logs[e.Index]
			first, last := f.first, f.last
			d.wrote(func(f *simFiles) {
				f.first, f.last = first, last
				delete(f.logs, e.Index)
				if had {
					f.logs[e.Index] = before
				}
			})
			kept := *e
			kept.Data, kept.Extensions = bytes.Clone(e.Data), bytes.Clone(e.Extensions)
			f.logs[e.Index] = kept
			if f.first == 0 {
				f.first = e.Index
			}
			f.last = max(f.last, e.Index)
		}
	})
}

func (l simLog) DeleteRange(from, to uint64) error {
	d := l.disk
	return d.change(l.life, "log", func(f *simFiles) {
		before, first, last := maps.Clone(f.logs), f.first, f.last
		d.wrote(func(f *simFiles) { f.logs, f.first, f.last = before, first, last })
		for i := from; i <= to; i++ {
			delete(f.logs, i)
		}
		f.first, f.last = 0, 0
		if len(f.logs) > 0 {
			indexes := slices.Sorted(maps.Keys(f.logs))
			f.first, f.last = indexes[0], indexes[len(indexes)-1]
		}
	})
}

// Set keeps a key. Whoever waits for it in a process that is gone waits no longer.
func (l simLog) Set(key, value []byte) error {
	d, what := l.disk, "mark"
	switch string(key) {
	case "LastVoteCand":
		what = "vote"
	case string(keyProbe):
		what = "probe"
	}
	err := d.change(l.life, what, func(f *simFiles) {
		before, had := f.keys[string(key)]
		d.wrote(func(f *simFiles) {
			delete(f.keys, string(key))
			if had {
				f.keys[string(key)] = before
			}
		})
		f.keys[string(key)] = bytes.Clone(value)
	})
	if errors.Is(err, errPowerOff) {
		return nil
	}
	return err
}

func (l simLog) SetUint64(key []byte, value uint64) error {
	return l.Set(key, fmt.Appendf(nil, "%d", value))
}

func (l simLog) Get(key []byte) ([]byte, error) {
	l.disk.mu.Lock()
	defer l.disk.mu.Unlock()
	value, ok := l.files.keys[string(key)]
	if !ok {
		return nil, raftboltdb.ErrKeyNotFound
	}
	return bytes.Clone(value), nil
}

func (l simLog) GetUint64(key []byte) (value uint64, err error) {
	b, err := l.Get(key)
	if err == nil {
		_, err = fmt.Sscan(string(b), &value)
	}
	return value, err
}

// simSnapshots is the part of the disk where snapshots lie.
type simSnapshots struct{ simLog }

// simSink is a snapshot in the making: nothing of it is there before it is closed.
type simSink struct {
	simSnapshots
	snapshot *simSnapshot
	done     bool
}

func (s simSnapshots) Create(version raft.SnapshotVersion, index, term uint64, configuration raft.Configuration, configurationIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	return &simSink{simSnapshots: s, snapshot: &simSnapshot{meta: raft.SnapshotMeta{
		Version: version, ID: fmt.Sprintf("%d-%d-%d", term, index, time.Now().UnixNano()), Index: index, Term: term,
		Configuration: configuration, ConfigurationIndex: configurationIndex,
	}}}, nil
}

func (s simSnapshots) List() ([]*raft.SnapshotMeta, error) {
	s.disk.mu.Lock()
	defer s.disk.mu.Unlock()
	var list []*raft.SnapshotMeta
	for _, kept := range s.files.snapshots {
		meta := kept.meta
		list = append(list, &meta)
	}
	return list, nil
}

func (s simSnapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	s.disk.mu.Lock()
	defer s.disk.mu.Unlock()
	for _, kept := range s.files.snapshots {
		if kept.meta.ID == id {
			meta := kept.meta
			return &meta, io.NopCloser(bytes.NewReader(kept.bytes)), nil
		}
	}
	return nil, nil, fmt.Errorf("there is no snapshot %s", id)
}

func (s *simSink) ID() string { return s.snapshot.meta.ID }

func (s *simSink) Write(b []byte) (int, error) {
	s.disk.mu.Lock()
	defer s.disk.mu.Unlock()
	switch {
	case s.disk.life != s.life:
		return 0, errPowerOff
	case s.disk.full:
		return 0, syscall.ENOSPC
	}
	s.snapshot.bytes = append(s.snapshot.bytes, b...)
	return len(b), nil
}

func (s *simSink) Cancel() error {
	s.done = true
	return nil
}

func (s *simSink) Close() error {
	if s.done {
		return nil
	}
	s.done = true
	s.snapshot.meta.Size = int64(len(s.snapshot.bytes))
	d := s.disk
	return d.change(s.life, "snapshot", func(f *simFiles) {
		before := slices.Clone(f.snapshots)
		d.wrote(func(f *simFiles) { f.snapshots = before })
		f.snapshots = append([]*simSnapshot{s.snapshot}, f.snapshots...) // of equals, the latest first
		slices.SortStableFunc(f.snapshots, func(a, b *simSnapshot) int {
			if a.meta.Term != b.meta.Term {
				return int(b.meta.Term) - int(a.meta.Term)
			}
			return int(b.meta.Index) - int(a.meta.Index)
		})
		f.snapshots = f.snapshots[:min(len(f.snapshots), snapshotsKept)]
	})
}
