package check

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
)

// Object is an object as an API shows it. The zero Object is one that does not exist.
type Object struct {
	Value    string
	Revision uint64
}

// ObjectEvent is what a watch of an API is told of one object.
type ObjectEvent struct {
	Place    int64 // in the history
	Key      string
	Added    bool // it did not exist before
	Deleted  bool // it does not exist any more; Now tells what it was, at the revision of the deletion
	Now      Object
	Bookmark bool // all before Now.Revision was told; no object
}

// ObjectWrite is a change of one object that was asked for.
type ObjectWrite struct {
	Span
	What     string
	Key      string
	Value    string // empty for a deletion
	Deleted  bool
	Outcome  Outcome
	Refused  bool   // it is OK and did nothing
	Revision uint64 // that it made; 0 if it was not told
}

// Timeline is all that is known of the changes of some objects, in the order of
// revisions. An API's revisions have gaps: what else is written takes some, too.
type Timeline struct {
	changes []ObjectEvent
	byKey   map[string][]int // places in changes
	// from and sure are the revisions between which some watch was told of all that happened.
	from, sure uint64
}

// NewTimeline puts together what all watches told. Two that tell one revision
// differently, and changes that do not follow from those before, are anomalies. So are
// values that were written twice. before is what the objects were at revision from, after which
// watches began; what came after revision sure may not have been told all.
func NewTimeline(before map[string]Object, from, sure uint64, told ...[]ObjectEvent) (*Timeline, []Anomaly) {
	var found []Anomaly
	all := make(map[uint64]ObjectEvent)
	for _, events := range told {
		for _, e := range events {
			if e.Bookmark {
				continue
			}
			first, ok := all[e.Now.Revision]
			if ok && !first.same(e) {
				found = append(found, anomaly("accounts differ", "revision %d is told as %s and as %s", e.Now.Revision, first, e).at(first.Place, e.Place))
			}
			if !ok {
				all[e.Now.Revision] = e
			}
		}
	}
	l := &Timeline{byKey: make(map[string][]int), from: from, sure: sure}
	started := slices.SortedFunc(maps.Keys(before), func(a, b string) int { return cmp.Compare(before[a].Revision, before[b].Revision) })
	for _, key := range started {
		l.add(ObjectEvent{Key: key, Added: true, Now: before[key]})
	}
	written := make(map[string]uint64)
	for _, revision := range slices.Sorted(maps.Keys(all)) {
		e := all[revision]
		if is := l.At(e.Key, revision); is.Revision == revision {
			continue // it was there when watches began
		}
		if revision <= sure {
			found = append(found, l.follows(e)...)
		}
		if at := written[e.Now.Value]; at != 0 && !e.Deleted {
			found = append(found, anomaly("a write happened twice", "%q was written at revision %d and at %d", e.Now.Value, at, revision).at(e.Place))
		}
		if !e.Deleted {
			written[e.Now.Value] = revision
		}
		l.add(e)
	}
	return l, found
}

func (l *Timeline) add(e ObjectEvent) {
	l.byKey[e.Key] = append(l.byKey[e.Key], len(l.changes))
	l.changes = append(l.changes, e)
}

func (e ObjectEvent) same(o ObjectEvent) bool {
	return e.Key == o.Key && e.Added == o.Added && e.Deleted == o.Deleted && e.Now == o.Now
}

// follows tells what of a change does not fit to the changes before it.
func (l *Timeline) follows(e ObjectEvent) []Anomaly {
	before := l.At(e.Key, e.Now.Revision)
	exists := before != (Object{})
	switch {
	case e.Added && exists:
		return []Anomaly{anomaly("a wrong event", "%s, which exists since revision %d", e, before.Revision).at(e.Place)}
	case !e.Added && !exists:
		return []Anomaly{anomaly("a wrong event", "%s, which does not exist", e).at(e.Place)}
	case e.Deleted && e.Now.Value != before.Value:
		return []Anomaly{anomaly("a wrong event", "%s, which held %q", e, before.Value).at(e.Place)}
	}
	return nil
}

// At is an object at a revision.
func (l *Timeline) At(key string, revision uint64) Object {
	places := l.byKey[key]
	i, _ := slices.BinarySearchFunc(places, revision+1, func(place int, r uint64) int {
		return cmp.Compare(l.changes[place].Now.Revision, r)
	})
	if i == 0 || l.changes[places[i-1]].Deleted {
		return Object{}
	}
	return l.changes[places[i-1]].Now
}

// State is every object at a revision.
func (l *Timeline) State(revision uint64) map[string]Object {
	state := make(map[string]Object)
	for key := range l.byKey {
		if o := l.At(key, revision); o != (Object{}) {
			state[key] = o
		}
	}
	return state
}

// Writes tells which writes are not in the timeline as they were acknowledged, and
// which are that were refused or failed. It returns when they took effect.
func (l *Timeline) Writes(writes []ObjectWrite) ([]Anomaly, []Point) {
	var found []Anomaly
	var points []Point
	at := make(map[uint64]ObjectEvent, len(l.changes))
	made := make(map[string]ObjectEvent, len(l.changes))
	for _, e := range l.changes {
		at[e.Now.Revision] = e
		if !e.Deleted {
			made[e.Now.Value] = e
		}
	}
	asked := make(map[string]bool)
	for _, w := range writes {
		asked[w.Value] = true
		e, happened := made[w.Value]
		happened = happened && !w.Deleted
		switch {
		case w.Outcome == OK && !w.Refused && w.Revision != 0 && w.Revision <= l.sure:
			if is, ok := at[w.Revision]; !ok && w.Revision > l.from || ok && (is.Key != w.Key || is.Deleted != w.Deleted || !w.Deleted && is.Now.Value != w.Value) {
				what := "nothing"
				if ok {
					what = is.String()
				}
				found = append(found, anomaly("a lost write", "%s; of this revision, watches were told %s", w.What, what).at(w.Call))
			}
			points = append(points, Point{Span: w.Span, Outcome: OK, Revision: w.Revision, Changed: true, What: w.What})
		case happened && w.Outcome == Failed:
			found = append(found, anomaly("a write that failed happened", "%s; %s", w.What, e).at(w.Call, e.Place))
		case happened && w.Outcome == OK && w.Refused:
			found = append(found, anomaly("a write that was refused happened", "%s; %s", w.What, e).at(w.Call, e.Place))
		case happened && w.Outcome == Unknown:
			points = append(points, Point{Span: w.Span, Outcome: Unknown, Revision: e.Now.Revision, Changed: true, What: w.What})
		}
	}
	for _, e := range l.changes {
		if !e.Deleted && e.Place > 0 && !asked[e.Now.Value] {
			found = append(found, anomaly("a write from nowhere", "%s, and nobody wrote it", e).at(e.Place))
		}
	}
	return found, points
}

// ObjectWatch is what one client's watch was told, from the revision that it asked to
// begin after.
type ObjectWatch struct {
	What    string
	Place   int64 // of the call
	From    uint64
	Told    []ObjectEvent // in the order in which they came, bookmarks among them
	Through uint64        // all changes up to it had to be told; at least that of the last event
}

// Watches tells which watches were told something else than the timeline holds, or not
// in its order, or something twice, or not all of it.
func (l *Timeline) Watches(watches []ObjectWatch) []Anomaly {
	var found []Anomaly
	for _, w := range watches {
		found = append(found, l.watch(w)...)
	}
	return found
}

func (l *Timeline) watch(w ObjectWatch) []Anomaly {
	next, _ := slices.BinarySearchFunc(l.changes, w.From+1, func(e ObjectEvent, r uint64) int { return cmp.Compare(e.Now.Revision, r) })
	last := w.From
	// missing tells if a change was passed over on the way to one of a revision.
	missing := func(revision uint64, place int64) []Anomaly {
		if next < len(l.changes) && l.changes[next].Now.Revision < revision {
			lost := l.changes[next]
			return []Anomaly{anomaly("a watch lost an event", "%s, which began after revision %d, was not told of %s, and went on to revision %d",
				w.What, w.From, lost, revision).at(lost.Place, place)}
		}
		return nil
	}
	for _, e := range w.Told {
		if e.Now.Revision < last || e.Now.Revision == last && !e.Bookmark {
			return []Anomaly{anomaly("a watch repeats or turns back", "%s, which began after revision %d, was told %s after revision %d", w.What, w.From, e, last).at(e.Place)}
		}
		upTo := e.Now.Revision
		if e.Bookmark {
			upTo++ // what happened at its revision, too, was to be told before it
		}
		if lost := missing(upTo, e.Place); lost != nil {
			return lost
		}
		last = e.Now.Revision
		if !e.Bookmark {
			next++
		}
	}
	return missing(w.Through+1, w.Place)
}

// Shown is what a list showed.
type Shown struct {
	Span
	What     string
	Revision uint64
	Objects  map[string]Object
}

// Evidence puts a timeline together without watches, of objects that are never deleted:
// of what writers were told and what lists showed.
func Evidence(writes []ObjectWrite, lists []Shown) (*Timeline, []Anomaly) {
	var told []ObjectEvent
	for _, w := range writes {
		if w.Outcome == OK && !w.Refused {
			told = append(told, ObjectEvent{Place: w.Call, Key: w.Key, Now: Object{w.Value, w.Revision}})
		}
	}
	for _, s := range lists {
		for _, key := range slices.Sorted(maps.Keys(s.Objects)) {
			told = append(told, ObjectEvent{Place: s.Call, Key: key, Now: s.Objects[key]})
		}
	}
	first := make(map[string]uint64)
	for _, e := range told {
		if r, ok := first[e.Key]; !ok || e.Now.Revision < r {
			first[e.Key] = e.Now.Revision
		}
	}
	for i, e := range told {
		told[i].Added = e.Now.Revision == first[e.Key]
	}
	return NewTimeline(nil, 0, math.MaxUint64, told)
}

// Lists tells which lists do not show the objects as they were at their revision.
func (l *Timeline) Lists(lists []Shown) []Anomaly {
	var found []Anomaly
	for _, s := range lists {
		if s.Revision > l.sure {
			continue // nobody knows
		}
		want := l.State(s.Revision)
		keys := slices.Sorted(maps.Keys(want))
		for key := range s.Objects {
			if _, ok := want[key]; !ok {
				keys = append(keys, key)
			}
		}
		for _, key := range keys {
			if is := s.Objects[key]; is != want[key] {
				found = append(found, anomaly("a wrong state", "%s: revision %d shows %s as %s, and it is %s", s.What, s.Revision, key, is, want[key]).at(s.Call))
				break
			}
		}
	}
	return found
}

func (o Object) String() string {
	if o == (Object{}) {
		return "absent"
	}
	return fmt.Sprintf("%q of revision %d", o.Value, o.Revision)
}

func (e ObjectEvent) String() string {
	switch {
	case e.Bookmark:
		return fmt.Sprintf("the bookmark of revision %d", e.Now.Revision)
	case e.Deleted:
		return fmt.Sprintf("the deletion of %s at revision %d", e.Key, e.Now.Revision)
	case e.Added:
		return fmt.Sprintf("the creation of %s as %s", e.Key, e.Now)
	}
	return fmt.Sprintf("the change of %s to %s", e.Key, e.Now)
}
