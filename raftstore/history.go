package raftstore

import (
	"slices"
	"strings"

	iradix "github.com/hashicorp/go-immutable-radix/v2"

	"kontiki/raftstore/internal/seeded"
)

const (
	eventOverhead   = 256  // bytes that an event costs besides keys and values
	checkpointEvery = 256  // revisions between two kept roots
	eventsPerNext   = 1024 // a cursor hands out at most so many at once
)

// history is the ring of the last events, without gaps: every revision in
// (floor, top] has its event. It is shared by all watches and by reads at old
// revisions. Its owner's mutex guards it.
type history struct {
	limit  int // bytes
	floor  uint64
	events []Event // of revisions floor+1, floor+2, …
	bytes  int
	// roots are trees at some revisions, ascending. From one of them, or from the
	// current tree, the tree at any revision is made by undoing events; a root
	// per revision would pin several KiB each.
	roots []View
}

func (h *history) top() uint64 { return h.floor + uint64(len(h.events)) }

func eventSize(e Event) int {
	n := eventOverhead + len(e.KV.Key) + len(e.KV.Value)
	if e.Prev != nil {
		n += len(e.Prev.Value)
	}
	return n
}

// reset forgets everything up to revision.
func (h *history) reset(revision uint64) {
	h.floor, h.events, h.bytes, h.roots = revision, nil, 0, nil
}

// add appends the events of one log entry, which led to view.
func (h *history) add(events []Event, view View) {
	for _, e := range events {
		h.bytes += eventSize(e)
	}
	h.events = append(h.events, events...)
	last := h.floor
	if n := len(h.roots); n > 0 {
		last = h.roots[n-1].revision
	}
	if view.revision >= last+checkpointEvery {
		h.roots = append(h.roots, view)
	}
	drop, bytes := 0, h.bytes
	for bytes > h.limit && drop < len(h.events) {
		bytes -= eventSize(h.events[drop])
		drop++
	}
	h.compact(h.floor + uint64(drop))
}

// compact drops the events up to and including revision.
func (h *history) compact(revision uint64) {
	revision = min(revision, h.top())
	if revision <= h.floor {
		return
	}
	n := int(revision - h.floor)
	for _, e := range h.events[:n] {
		h.bytes -= eventSize(e)
	}
	clear(h.events[:n]) // the array behind the slice stays until append outgrows it
	h.events = h.events[n:]
	if len(h.events) == 0 {
		h.events = nil
	}
	h.floor = revision
	keep := slices.IndexFunc(h.roots, func(v View) bool { return v.revision >= revision })
	if keep < 0 {
		keep = len(h.roots)
	}
	h.roots = slices.Clone(h.roots[keep:])
}

// after returns the events with a prefix and a revision greater than after, and
// the revision through which it has looked.
func (h *history) after(prefix string, after uint64) (events []Event, through uint64, err error) {
	if after < h.floor {
		if seeded.Error != seeded.DroppedEvent {
			return nil, after, ErrCompacted
		}
		after = h.floor
	}
	through = after
	for i := after - h.floor; i < uint64(len(h.events)); i++ {
		e := &h.events[i]
		if strings.HasPrefix(e.KV.Key, prefix) {
			if len(events) == eventsPerNext {
				break
			}
			events = append(events, *e)
		}
		through = e.Revision()
	}
	return events, through, nil
}

// base is what viewAt starts from: a view not older than revision, and the
// events between the two.
func (h *history) base(revision uint64, current View) (View, []Event, error) {
	switch {
	case revision > current.revision:
		return View{}, nil, ErrFutureRevision
	case revision < h.floor:
		return View{}, nil, ErrCompacted
	}
	from := current
	if i := slices.IndexFunc(h.roots, func(v View) bool { return v.revision >= revision }); i >= 0 {
		from = h.roots[i]
	}
	return from, h.events[revision-h.floor : from.revision-h.floor], nil
}

// undo takes events back, newest first.
func undo(from View, events []Event) View {
	if len(events) == 0 {
		return from
	}
	keys := from.keys
	if keys == nil {
		keys = iradix.New[*KV]()
	}
	txn := keys.Txn()
	for _, e := range slices.Backward(events) {
		if e.Prev == nil {
			txn.Delete([]byte(e.KV.Key))
		} else {
			txn.Insert([]byte(e.KV.Key), e.Prev)
		}
	}
	return View{keys: txn.Commit(), revision: events[0].Revision() - 1}
}
