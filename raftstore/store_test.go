package raftstore_test

import (
	"context"
	"errors"
	"testing"

	"kontiki/raftstore"
	"kontiki/raftstore/raftstoretest"
)

func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), raftstoretest.Patience)
	t.Cleanup(cancel)
	return ctx
}

func put(key, value string) raftstore.Txn {
	return raftstore.Txn{Ops: []raftstore.Op{{Kind: raftstore.OpPut, Key: key, Value: []byte(value)}}}
}

func mustApply(t *testing.T, s *raftstore.Store, txn raftstore.Txn) raftstore.TxnResult {
	t.Helper()
	r, err := s.Apply(bounded(t), txn)
	if err != nil {
		t.Fatalf("apply: %v", err)
	}
	return r
}

func TestSingleNode(t *testing.T) {
	s := raftstoretest.New(t)
	ctx := bounded(t)
	if v, err := s.Linearize(ctx); err != nil || v.Revision() != 1 {
		t.Fatalf("an empty store is at revision %d, error %v; a resourceVersion of 0 would name none", v.Revision(), err)
	}
	w, err := s.Watch("a/", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()

	r := mustApply(t, s, raftstore.Txn{Ops: []raftstore.Op{
		{Kind: raftstore.OpPut, Key: "a/1", Value: []byte("one")},
		{Kind: raftstore.OpPut, Key: "a/2", Value: []byte("two")},
		{Kind: raftstore.OpDelete, Key: "a/3"},
	}})
	if r.Revision != 3 || r.Revisions[0] != 2 || r.Revisions[1] != 3 || r.Revisions[2] != 0 {
		t.Fatalf("every changed key takes a revision of its own: %+v", r)
	}
	r = mustApply(t, s, raftstore.Txn{
		Compares: []raftstore.Compare{{Key: "a/1", ModRevision: 7}},
		Ops:      []raftstore.Op{{Kind: raftstore.OpDelete, Key: "a/1"}},
	})
	if r.Succeeded || r.Revision != 3 || r.Current[0].ModRevision != 2 {
		t.Fatalf("a failed compare changes nothing and shows what is there: %+v", r)
	}
	r = mustApply(t, s, raftstore.Txn{
		Compares: []raftstore.Compare{{Key: "a/1", ModRevision: 2}, {Key: "a/9"}},
		Ops:      []raftstore.Op{{Kind: raftstore.OpDelete, Key: "a/1"}},
	})
	if !r.Succeeded || r.Revision != 4 {
		t.Fatalf("delete: %+v", r)
	}

	v, err := s.Linearize(ctx)
	if err != nil || v.Revision() != 4 || v.Count("a/") != 1 {
		t.Fatalf("view at %d holds %d keys, error %v", v.Revision(), v.Count("a/"), err)
	}
	old, err := s.ViewAt(ctx, 3)
	if err != nil || old.Count("") != 2 {
		t.Fatalf("at revision 3: %d keys, error %v", old.Count(""), err)
	}
	if _, err := s.ViewAt(ctx, 5); !errors.Is(err, raftstore.ErrFutureRevision) {
		t.Fatalf("a future revision: %v", err)
	}

	var events []raftstore.Event
	for through := uint64(0); through < 4; {
		var more []raftstore.Event
		if more, through, err = w.Next(ctx); err != nil {
			t.Fatal(err)
		}
		events = append(events, more...)
	}
	if len(events) != 3 || !events[2].Deleted || string(events[2].Prev.Value) != "one" {
		t.Fatalf("events: %+v", events)
	}

	if err := s.Compact(ctx, 4); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ViewAt(ctx, 3); !errors.Is(err, raftstore.ErrCompacted) {
		t.Fatalf("a compacted revision: %v", err)
	}
	if _, err := s.Watch("", 3); !errors.Is(err, raftstore.ErrCompacted) {
		t.Fatalf("a watch from a compacted revision: %v", err)
	}
	if _, err := s.Apply(ctx, put("big", string(make([]byte, 2<<20)))); !errors.Is(err, raftstore.ErrTooLarge) {
		t.Fatalf("an oversized transaction: %v", err)
	}
}
