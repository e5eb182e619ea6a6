package raftstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// followed is a watch and what it has been told.
type followed struct {
	w       *Watch
	prefix  string
	from    uint64
	through uint64
	seen    []uint64
	lost    bool
}

// next takes what there is, without waiting.
func (f *followed) next(t *rapid.T) {
	over, cancel := context.WithCancel(context.Background())
	cancel()
	events, through, err := f.w.Next(over)
	switch {
	case errors.Is(err, context.Canceled): // no news
	case errors.Is(err, ErrCompacted):
		f.lost = true
	case err != nil:
		t.Fatal(err)
	case through <= f.through:
		t.Fatalf("told through %d after %d", through, f.through)
	default:
		f.through = through
		for _, e := range events {
			f.seen = append(f.seen, e.Revision())
		}
	}
}

// Each watch is told of all events of its prefix after its start, in order and
// once, and a watch that cannot be says so; those that concern nobody wake nobody.
func TestWatchesAgainstAllEvents(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := newFSM(slog.New(slog.DiscardHandler), rapid.SampledFrom([]int{1 << 20, 5000}).Draw(t, "history"))
		s := &Store{fsm: f, closing: make(chan struct{})}
		applyEntry(t, f, 1, 1, command{Kind: kindOpen, Node: "n"})
		var all []Event
		var watches []*followed
		index := uint64(1)
		for range rapid.IntRange(5, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0:
				prefix := rapid.SampledFrom([]string{"", "a", "a/", "a/b", "b/"}).Draw(t, "prefix")
				from := rapid.Uint64Range(f.floor(), f.current.Load().revision+2).Draw(t, "after")
				w, err := s.Watch(prefix, from)
				if err != nil {
					t.Fatal(err)
				}
				watches = append(watches, &followed{w: w, prefix: prefix, from: w.after, through: w.after})
			case 1:
				if len(watches) > 0 {
					rapid.SampledFrom(watches).Draw(t, "watch").next(t)
				}
			case 2:
				if n := len(watches); n > 0 && rapid.Bool().Draw(t, "close") {
					i := rapid.IntRange(0, n-1).Draw(t, "which")
					watches[i].w.Close()
					watches = slices.Delete(watches, i, i+1)
				}
			default:
				index++
				var ops []operation
				for i := range rapid.IntRange(1, 4).Draw(t, "ops") {
					key := rapid.SampledFrom([]string{"a", "a/", "a/b", "b/x", "c"}).Draw(t, "key")
					ops = append(ops, operation{Kind: OpPut, Key: fmt.Sprintf("%s%d", key, i)})
				}
				before := f.current.Load().revision
				applyEntry(t, f, index, 1, command{Kind: kindTxn, Session: 1, Sequence: index, Ops: ops})
				for i, op := range ops {
					all = append(all, Event{KV: KV{Key: op.Key, ModRevision: before + 1 + uint64(i)}})
				}
			}
		}
		for _, w := range watches {
			for !w.lost && w.through < f.current.Load().revision {
				w.next(t)
			}
			var want []uint64
			for _, e := range all {
				if strings.HasPrefix(e.KV.Key, w.prefix) && e.Revision() > w.from && (!w.lost || e.Revision() <= w.through) {
					want = append(want, e.Revision())
				}
			}
			if !slices.Equal(w.seen, want) {
				t.Fatalf("a watch of %q after %d was told %v, expected %v", w.prefix, w.from, w.seen, want)
			}
			w.w.Close()
		}
		if n := len(f.watchers.watches) + len(f.watchers.lengths); n != 0 {
			t.Fatalf("%d traces of closed watches", n)
		}
	})
}

// A watch that nothing concerns sleeps, and does not fall off while others write.
func TestUnconcernedWatch(t *testing.T) {
	f := newFSM(slog.New(slog.DiscardHandler), 5000)
	s := &Store{fsm: f, closing: make(chan struct{})}
	w, err := s.Watch("quiet/", 1)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := w.Next(over); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	write := func(index uint64, key string) {
		b, err := encodeCommand(&command{Kind: kindTxn, Session: 1, Sequence: index, Ops: []operation{{Kind: OpPut, Key: key}}})
		if err != nil {
			t.Fatal(err)
		}
		f.Apply(logOf(index, b))
	}
	open, err := encodeCommand(&command{Kind: kindOpen, Node: "n"})
	if err != nil {
		t.Fatal(err)
	}
	f.Apply(logOf(1, open))
	for i := range uint64(100) {
		write(i+2, "loud/k")
	}
	if len(w.wake) != 0 {
		t.Error("a watch was woken by what does not concern it")
	}
	if f.floor() < 50 {
		t.Fatalf("history reaches back to %d: the test wants it short", f.floor())
	}
	if events, through, err := w.Next(over); err != nil || len(events) != 0 || through != 101 {
		t.Errorf("%d events through %d, error %v", len(events), through, err)
	}
	write(102, "quiet/k")
	if events, through, err := w.Next(t.Context()); err != nil || len(events) != 1 || through != 102 {
		t.Errorf("%d events through %d, error %v", len(events), through, err)
	}
	// After a snapshot was installed it cannot know what it has missed.
	st := *f.current.Load()
	st.index, st.revision = 500, 300
	var b strings.Builder
	if err := writeSnapshot(&b, &st); err != nil {
		t.Fatal(err)
	}
	if err := f.Restore(io.NopCloser(strings.NewReader(b.String()))); err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.Next(t.Context()); !errors.Is(err, ErrCompacted) {
		t.Errorf("after a snapshot: %v", err)
	}
}
