package raftstore

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

func simRandom() *rand.Rand { return rand.New(rand.NewPCG(1, 1)) }

// What a simulated disk has acknowledged survives, what it was writing may be lost, and
// a process that is gone changes nothing.
func TestSimulatedDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newSimDisk(simRandom())
		log := d.open()
		entry := func(index uint64) *raft.Log { return &raft.Log{Index: index, Term: 1, Data: []byte{byte(index)}} }
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		must(log.StoreLogs([]*raft.Log{entry(1), entry(2), entry(3)}))
		must(log.SetUint64([]byte("CurrentTerm"), 7))
		must(log.DeleteRange(3, 3))
		d.ail("hang")
		written := make(chan error, 1)
		go func() { written <- log.StoreLogs([]*raft.Log{entry(3), entry(4)}) }()
		time.Sleep(time.Second)
		if last, err := log.LastIndex(); err != nil || last != 4 {
			t.Fatalf("the cache ends at %d, error %v", last, err)
		}
		d.random = rand.New(rand.NewPCG(3, 3))
		d.crash(true)
		if err := <-written; !errors.Is(err, errPowerOff) {
			t.Errorf("a write under way at the crash: %v", err)
		}
		if err := log.StoreLogs([]*raft.Log{entry(5)}); !errors.Is(err, errPowerOff) {
			t.Errorf("a write after the crash: %v", err)
		}
		d.heal()
		log = d.open()
		last, err := log.LastIndex()
		var e raft.Log
		if err != nil || last < 2 || last > 4 || log.GetLog(2, &e) != nil || e.Data[0] != 2 || !errors.Is(log.GetLog(last+1, &e), raft.ErrLogNotFound) {
			t.Errorf("after the crash, the log ends at %d with %v, error %v", last, e, err)
		}
		if term, err := log.GetUint64([]byte("CurrentTerm")); err != nil || term != 7 {
			t.Errorf("term %d, error %v", term, err)
		}
		d.ail("full")
		if err := log.SetUint64([]byte("CurrentTerm"), 8); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("a write to a full disk: %v", err)
		}
	})
}

// A trap crashes at its write and at no other: before it, or when it is on the disk.
func TestSimulatedDiskTraps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for when, want := range map[string]string{"before": "n1", "after": "n2"} {
			d := newSimDisk(simRandom())
			log := d.open()
			sprung := 0
			d.arm(&simTrap{what: "vote", after: 2, when: when, power: true, crash: func() { sprung++ }})
			for _, vote := range []string{"n1", "n2", "n3"} {
				if err := errors.Join(log.Set([]byte("LastVoteCand"), []byte(vote)), log.Set([]byte("CurrentTerm"), nil)); err != nil {
					t.Fatal(err)
				}
			}
			if got, err := d.open().Get([]byte("LastVoteCand")); sprung != 1 || err != nil || string(got) != want {
				t.Errorf("%s: sprung %d times, the vote on disk is %q, want %q, error %v", when, sprung, got, want, err)
			}
		}
	})
}

// A simulated stream delivers in order, holds what is cut, and ends as its ends do.
func TestSimulatedNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newSimNet(simRandom())
		a, b := n.streams("a", "raft"), n.streams("b", "raft")
		dial := func(limit time.Duration) (io.ReadWriteCloser, error) {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			return a.Dial(ctx, "b")
		}
		ours, err := dial(time.Second)
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := b.Accept()
		if err != nil {
			t.Fatal(err)
		}
		read := func(want string) {
			t.Helper()
			got := make([]byte, len(want))
			theirs.SetDeadline(time.Now().Add(time.Second))
			if _, err := io.ReadFull(theirs, got); err != nil || string(got) != want {
				t.Fatalf("%q, error %v, want %q", got, err, want)
			}
		}
		write := func(s string) {
			t.Helper()
			if _, err := ours.Write([]byte(s)); err != nil {
				t.Fatal(err)
			}
		}
		silent := func() {
			t.Helper()
			theirs.SetDeadline(time.Now().Add(time.Second))
			if n, err := theirs.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("%d bytes, error %v", n, err)
			}
		}
		write("one")
		write("two")
		read("onetwo")
		n.shift(func() { n.cut[[2]string{"a", "b"}] = true })
		write("three")
		silent()
		if _, err := dial(time.Second); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a new stream through a cut: %v", err)
		}
		n.shift(func() { clear(n.cut) })
		read("three")
		n.shift(func() { n.paused["b"] = true })
		write("four")
		silent()
		n.crash("a", true) // what had left arrives, and then nothing
		n.shift(func() { clear(n.paused) })
		read("four")
		silent()
		n.boot("a")
		theirs.SetDeadline(time.Time{})
		if _, err := theirs.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a stream of a machine that has started anew: %v", err)
		}
		if _, err := ours.Write([]byte("five")); err == nil {
			t.Error("a process that is gone writes")
		}
	})
}

// A disk that hangs before Raft runs is waited for.
func TestDiskHangsAtTheFirstStart(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		c := newSimCluster(&simPlan{Voters: 1, EventBytes: 1 << 20, EventAge: time.Minute}, dir)
		n := c.nodes[0]
		n.disk.ail("hang")
		go c.start(n)
		time.Sleep(3 * time.Second)
		if n.at() != nil {
			t.Error("it has started without writing")
		}
		n.disk.heal()
		time.Sleep(3 * time.Second)
		if c.leader() != n {
			t.Error("it does not lead when its disk writes again")
		}
		c.end()
		c.stop(n)
		time.Sleep(time.Minute)
	})
}
