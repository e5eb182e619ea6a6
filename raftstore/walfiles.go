package raftstore

import (
	"io"
	"sync"

	"github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/types"
)

// walFiles opens the log's files, and knows them until the log is open: the module drops
// those that it has opened when it fails at a later one (raft-wal v0.4.1, wal.go, Open).
type walFiles struct {
	types.VFS

	mu      sync.Mutex // protects what follows
	opened  []io.Closer
	settled bool // the log is open, and closes its files itself
}

func newWALFiles() *walFiles { return &walFiles{VFS: fs.New()} }

// Create implements types.VFS.
func (w *walFiles) Create(dir, name string, size uint64) (types.WritableFile, error) {
	f, err := w.VFS.Create(dir, name, size)
	return keepOpen(w, f, err)
}

// OpenReader implements types.VFS.
func (w *walFiles) OpenReader(dir, name string) (types.ReadableFile, error) {
	f, err := w.VFS.OpenReader(dir, name)
	return keepOpen(w, f, err)
}

// OpenWriter implements types.VFS.
func (w *walFiles) OpenWriter(dir, name string) (types.WritableFile, error) {
	f, err := w.VFS.OpenWriter(dir, name)
	return keepOpen(w, f, err)
}

func keepOpen[F io.Closer](w *walFiles, f F, err error) (F, error) {
	if err != nil {
		var none F // the module's is an interface around a nil
		return none, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.settled {
		w.opened = append(w.opened, f)
	}
	return f, nil
}

// settle is called once the log is open.
func (w *walFiles) settle() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.opened, w.settled = nil, true
}

// close closes what was opened for a log that could not be.
func (w *walFiles) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.opened {
		_ = f.Close() // nothing was written that counts; one that the module closed says so
	}
	w.opened = nil
}
