package raftstore

import (
	"context"
	"log/slog"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

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

// A member that finds no room for the leader's entries once its own, which nobody else has, were
// cut off for them, catches up when there is room.
func TestRoomIsWaitedForBehindACutEnd(t *testing.T) {
	inSimCluster(t, 3, func(t *testing.T, c *simCluster) {
		put := func(s *Store, within time.Duration) error {
			ctx, cancel := context.WithTimeout(context.Background(), within)
			defer cancel()
			_, err := s.Apply(ctx, Txn{Ops: []Op{{Kind: OpPut, Key: "k"}}})
			return err
		}
		alone := c.leader()
		s := alone.at().store
		reached := func(reached bool) {
			c.net.shift(func() {
				for _, n := range c.nodes {
					c.net.cut[[2]string{n.id, alone.id}], c.net.cut[[2]string{alone.id, n.id}] = !reached, !reached
				}
			})
		}
		reached(false)
		for range 3 {
			c.running.Go(func() { _ = put(s, time.Second) }) // nobody else gets it
		}
		c.pass(3 * time.Second)
		end, err := s.disk.LastIndex()
		if err != nil {
			t.Fatal(err)
		}
		next := c.leader().at().store
		if err := put(next, time.Second); err != nil {
			t.Fatal(err)
		}
		var full atomic.Bool
		var refused atomic.Int32
		full.Store(true)
		s.disk.around = func(write func() error) error {
			if last, err := s.disk.LastIndex(); full.Load() && (err != nil || last < end) {
				refused.Add(1)
				return syscall.ENOSPC
			}
			return write()
		}
		reached(true)
		c.pass(3 * time.Second)
		if refused.Load() == 0 {
			t.Error("nothing was refused: the test does not show what it is for")
		}
		full.Store(false)
		c.pass(3 * time.Second)
		if got, want := s.View().Revision(), next.View().Revision(); got != want {
			t.Errorf("at revision %d, the leader at %d", got, want)
		}
	})
}
