package raftstore

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
)

// A write that failed may be in the file all the same. What is written in its
// place counts, and what was acknowledged before stays.
func TestWALAfterAFailedWrite(t *testing.T) {
	dir := t.TempDir()
	open := func() *walLog {
		t.Helper()
		l, err := openWAL(dir, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	entry := func(index uint64, text string) *raft.Log {
		return &raft.Log{Index: index, Term: 1, Type: raft.LogCommand, Data: encodeEntry([][]byte{[]byte(text)})}
	}
	l := open()
	if err := l.StoreLogs([]*raft.Log{entry(1, "a"), entry(2, "b")}); err != nil {
		t.Fatal(err)
	}
	if err := l.write(3, func(w *wal.WAL) error {
		if err := w.StoreLogs([]*raft.Log{entry(3, "late")}); err != nil {
			return err
		}
		return raft.ErrAbortedByRestore // any error: the write is in the file
	}); err == nil {
		t.Fatal("the write did not fail")
	}
	if err := l.StoreLogs([]*raft.Log{entry(3, "c"), entry(4, "d")}); err != nil {
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
		l = open()
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}
