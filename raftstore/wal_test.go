package raftstore

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
)

func mustOpenWAL(t *testing.T, dir string) *walLog {
	t.Helper()
	l, err := openWAL(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func walEntry(index uint64, text string) *raft.Log {
	return &raft.Log{Index: index, Term: 1, Type: raft.LogCommand, Data: encodeEntry([][]byte{[]byte(text)})}
}

// failAppend writes an entry, and has the log believe that it could not.
func failAppend(t *testing.T, l *walLog, e *raft.Log) {
	t.Helper()
	l.writing.Lock()
	defer l.writing.Unlock()
	if err := l.write(e.Index, func(w *wal.WAL) error {
		return errors.Join(w.StoreLogs([]*raft.Log{e}), raft.ErrAbortedByRestore) // any error: the write is in the file
	}); err == nil {
		t.Fatal("the write did not fail")
	}
}

// A write that failed may be in the file all the same. What is written in its
// place counts, and what was acknowledged before stays.
func TestWALAfterAFailedWrite(t *testing.T) {
	dir := t.TempDir()
	l := mustOpenWAL(t, dir)
	if err := l.StoreLogs([]*raft.Log{walEntry(1, "a"), walEntry(2, "b")}); err != nil {
		t.Fatal(err)
	}
	failAppend(t, l, walEntry(3, "late"))
	if err := l.StoreLogs([]*raft.Log{walEntry(3, "c"), walEntry(4, "d")}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // as it is, and opened again
		var text []string
		for i := range uint64(4) {
			var e raft.Log
			if err := l.GetLog(i+1, &e); err != nil {
				t.Fatal(err)
			}
			text = append(text, string(e.Data[len(e.Data)-1:]))
		}
		if got := strings.Join(text, ""); got != "abcd" {
			t.Fatalf("the log holds %q", got)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		l = mustOpenWAL(t, dir)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// A log that cannot be opened leaves no file open: it is tried again and again.
func TestWALThatFailsToOpenLeavesNoFiles(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // which would close some
	dir := t.TempDir()
	l := mustOpenWAL(t, dir)
	if err := l.StoreLogs([]*raft.Log{walEntry(1, "a"), walEntry(2, "b"), walEntry(3, "c")}); err != nil {
		t.Fatal(err)
	}
	if err := l.DeleteRange(3, 3); err != nil { // seals one file, and begins another
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.wal"))
	if err != nil || len(files) != 2 {
		t.Fatalf("the log has files %v, %v", files, err)
	}
	slices.Sort(files)
	if err := errors.Join(os.Remove(files[1]), os.Mkdir(files[1], 0o700)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if l, err := openWAL(dir, slog.New(slog.DiscardHandler)); err == nil {
			l.Close()
			t.Fatal("a directory was opened in place of a file")
		}
	}
	open, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range open {
		if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, dir) {
			t.Errorf("%s is left open", to)
		}
	}
}

// Raft removes what a snapshot holds while it appends. What was acknowledged meanwhile
// is still there after a write that failed.
func TestWALAppendsWhileItIsCut(t *testing.T) {
	l := mustOpenWAL(t, t.TempDir())
	defer l.Close()
	const entries, kept = 300, 20
	stored := make(chan uint64, entries)
	cut := make(chan error, 1)
	go func() {
		var err error
		for last := range stored {
			if last > kept && err == nil {
				err = l.DeleteRange(last-kept, last-kept)
			}
		}
		cut <- err
	}()
	if err := l.StoreLog(walEntry(1, "a")); err != nil {
		t.Fatal(err)
	}
	for i := uint64(2); i <= entries; i++ {
		stored <- i - 1
		if err := l.StoreLog(walEntry(i, "a")); err != nil {
			t.Fatal(err)
		}
	}
	close(stored)
	if err := <-cut; err != nil {
		t.Fatal(err)
	}
	failAppend(t, l, walEntry(entries+1, "late"))
	if err := l.StoreLog(walEntry(entries+1, "b")); err != nil {
		t.Fatal(err)
	}
	for i := uint64(entries - kept); i <= entries+1; i++ {
		var e raft.Log
		if err := l.GetLog(i, &e); err != nil {
			t.Errorf("entry %d: %v", i, err)
		}
	}
}

// A log that could not be opened after a failed write is opened by the next write of a
// term or vote, too: Raft waits for that one in its loop.
func TestWALOpensAnewForAVote(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	l := mustOpenWAL(t, dir)
	failAppend(t, l, walEntry(1, "late"))
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	if err := l.SetUint64([]byte("term"), 7); err == nil {
		t.Fatal("written to a log that is not there")
	}
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	if err := l.SetUint64([]byte("term"), 7); err == nil {
		t.Error("opened again at once, although the last try has just failed")
	}
	l.tried = time.Time{} // the pause is over
	if err := l.SetUint64([]byte("term"), 7); err != nil {
		t.Fatal(err)
	}
	if term, err := l.GetUint64([]byte("term")); err != nil || term != 7 {
		t.Errorf("the term is %d: %v", term, err)
	}
	failAppend(t, l, walEntry(1, "late"))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.SetUint64([]byte("term"), 8); err == nil || l.wal != nil {
		t.Errorf("written to a log that was closed: %v", err)
	}
}

// A crash between the storing of a leader's snapshot and the emptying of the log that it stands
// for leaves entries behind a gap. The log goes on after the snapshot.
func TestWALGoesOnBehindASnapshot(t *testing.T) {
	dir := t.TempDir()
	l := mustOpenWAL(t, dir)
	if err := l.StoreLogs([]*raft.Log{walEntry(30, "a"), walEntry(31, "b")}); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = mustOpenWAL(t, dir)
	for i := uint64(101); i <= 102; i++ {
		if err := l.StoreLogs([]*raft.Log{walEntry(i, "c")}); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // as it is, and opened again
		first, err := l.FirstIndex()
		last, lastErr := l.LastIndex()
		var e raft.Log
		if err := errors.Join(err, lastErr, l.GetLog(101, &e)); err != nil || first != 101 || last != 102 {
			t.Fatalf("entries %d to %d: %v", first, last, err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		l = mustOpenWAL(t, dir)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}
