package check

import (
	"cmp"
	"maps"
	"math"
	"slices"
)

// deletion is one that was asked for, with the revisions between which it happened if it did.
type deletion struct {
	ObjectWrite
	after, before uint64
}

// Deletions tells which deletions that were acknowledged watches were not told of, and of
// which watches were told though nobody can have asked for them. A deletion is answered
// without its revision, and happened between the latest that was known when it was called
// and the first of those that were called after its return.
func (l *Timeline) Deletions(writes []ObjectWrite) []Anomaly {
	asked := make(map[string][]deletion)
	for _, w := range writes {
		if w.Deleted && w.Outcome != Failed && !w.Refused {
			asked[w.Key] = append(asked[w.Key], l.bounded(w, writes))
		}
	}
	told := make(map[string][]ObjectEvent)
	for _, e := range l.changes {
		if e.Deleted && e.Now.Revision <= l.sure {
			told[e.Key] = append(told[e.Key], e)
		}
	}
	var found []Anomaly
	for _, key := range slices.Sorted(maps.Keys(asked)) {
		sure := slices.DeleteFunc(slices.Clone(asked[key]), func(d deletion) bool {
			return d.Outcome != OK || d.after < l.from || d.before > l.sure+1 // no watch may have been there
		})
		lost, _ := match(sure, told[key])
		for _, d := range lost {
			found = append(found, anomaly("a lost write", "%s; watches were told of no deletion that can be it, after revision %d", d.What, d.after).at(d.Call))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(told)) {
		_, strange := match(asked[key], told[key])
		for _, e := range strange {
			found = append(found, anomaly("a write from nowhere", "%s, and nobody can have asked for it", e).at(e.Place))
		}
	}
	return found
}

// bounded is a deletion between what was known when it was called and what was called
// after its return.
func (l *Timeline) bounded(w ObjectWrite, writes []ObjectWrite) deletion {
	d := deletion{w, 0, math.MaxUint64}
	for _, e := range l.changes {
		if e.Place > 0 && e.Place < w.Call {
			d.after = max(d.after, e.Now.Revision)
		}
	}
	for _, o := range writes {
		switch {
		case o.Outcome != OK || o.Revision == 0:
		case o.Return < w.Call:
			d.after = max(d.after, o.Revision)
		case w.Outcome == OK && o.Call > w.Return:
			d.before = min(d.before, o.Revision)
		}
	}
	return d
}

// match gives each event to one deletion that it can be of, as many as can be, and tells
// what is left of both.
func match(asked []deletion, told []ObjectEvent) (lost []deletion, strange []ObjectEvent) {
	open := slices.SortedFunc(slices.Values(asked), func(a, b deletion) int { return cmp.Compare(a.before, b.before) })
	for _, e := range told { // by revision
		i := slices.IndexFunc(open, func(d deletion) bool { return d.after < e.Now.Revision && e.Now.Revision < d.before })
		if i < 0 {
			strange = append(strange, e)
			continue
		}
		open = slices.Delete(open, i, i+1)
	}
	return open, strange
}
