package raftstore

import (
	"log/slog"
	"testing"

	"github.com/hashicorp/raft"
)

// The commit index is known after a crash, without a write of its own.
func TestCommitIndexIsStoredWithEntries(t *testing.T) {
	dir := t.TempDir()
	open := func() *disk {
		log := slog.New(slog.DiscardHandler)
		store, err := openLog(dir, identity{Log: LogBolt}, log)
		if err != nil {
			t.Fatal(err)
		}
		return newDisk(store, dir, identity{Format: dirFormatSealed}, log)
	}
	d := open()
	expect := func(want uint64) {
		t.Helper()
		if err := d.Close(); err != nil { // as a crash would: nothing is written
			t.Fatal(err)
		}
		d = open()
		if got, err := d.commitIndex(); err != nil || got != want {
			t.Fatalf("commit index %d, expected %d; error %v", got, want, err)
		}
	}
	store := func(from, to uint64) {
		var logs []*raft.Log
		for i := from; i <= to; i++ {
			logs = append(logs, &raft.Log{Index: i, Term: 1, Type: raft.LogNoop})
		}
		if err := d.StoreLogs(logs); err != nil {
			t.Fatal(err)
		}
	}
	expect(0)
	store(1, 4)
	expect(0)
	d.committed.Store(4)
	store(5, 7)
	expect(4)
	d.committed.Store(7)
	if err := d.markCommitted(); err != nil {
		t.Fatal(err)
	}
	expect(7)
	if err := d.DeleteRange(6, 7); err != nil { // e.g. behind a snapshot
		t.Fatal(err)
	}
	expect(7)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}
