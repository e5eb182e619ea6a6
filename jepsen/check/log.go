package check

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// Entry is a key as a replica shows it; the zero Entry is one that does not exist.
type Entry struct {
	Value                string
	Create, Mod, Version uint64
}

// Change is one change of one key, as a watch tells of it.
type Change struct {
	Key     string
	Deleted bool
	Now     Entry // after the change; of a delete, Mod is the revision that it made
	Prev    Entry
}

// Revision is the one that the change made.
func (c Change) Revision() uint64 { return c.Now.Mod }

// Log is every change in order: what the histories of clients, readers and watches
// are compared with.
type Log struct {
	first   uint64 // the revision before the first change
	changes []Change
	byKey   map[string][]int    // places in changes
	byValue map[string][]uint64 // revisions at which a value was written
}

// NewLog makes a log of all that watches told, from a revision on. Two watches that
// tell different changes of one revision, one of which nobody tells, and changes that
// do not follow from those before are anomalies.
func NewLog(first uint64, told ...[]Change) (*Log, []Anomaly) {
	var found []Anomaly
	all := make(map[uint64]Change)
	for _, changes := range told {
		for _, c := range changes {
			if other, ok := all[c.Revision()]; ok && other != c {
				found = append(found, anomaly("watches differ", "revision %d is told as %+v and as %+v", c.Revision(), other, c))
			}
			all[c.Revision()] = c
		}
	}
	l := &Log{first: first, byKey: make(map[string][]int), byValue: make(map[string][]uint64)}
	for _, revision := range slices.Sorted(maps.Keys(all)) {
		if revision <= first {
			continue
		}
		if want := l.Top() + 1; revision != want {
			found = append(found, anomaly("undecided", "no watch tells of revisions %d to %d", want, revision-1))
			break // what follows cannot be judged
		}
		c := all[revision]
		found = append(found, l.follows(c)...)
		l.byKey[c.Key] = append(l.byKey[c.Key], len(l.changes))
		if !c.Deleted {
			l.byValue[c.Now.Value] = append(l.byValue[c.Now.Value], revision)
		}
		l.changes = append(l.changes, c)
	}
	for _, value := range slices.Sorted(maps.Keys(l.byValue)) {
		if at := l.byValue[value]; len(at) > 1 {
			found = append(found, anomaly("a write happened twice", "value %q was written at revisions %v", value, at))
		}
	}
	return l, found
}

// follows tells what of a change does not fit to the changes before it.
func (l *Log) follows(c Change) []Anomaly {
	prev := l.At(c.Key, c.Revision()-1)
	want := Entry{Value: c.Now.Value, Create: c.Revision(), Mod: c.Revision(), Version: 1}
	if prev != (Entry{}) {
		want.Create, want.Version = prev.Create, prev.Version+1
	}
	switch {
	case c.Prev != prev:
		return []Anomaly{anomaly("a wrong previous value", "revision %d tells %s was %+v, and it was %+v", c.Revision(), c.Key, c.Prev, prev)}
	case c.Deleted && prev == (Entry{}):
		return []Anomaly{anomaly("a wrong event", "revision %d deletes %s, which does not exist", c.Revision(), c.Key)}
	case c.Now != want:
		return []Anomaly{anomaly("a wrong event", "revision %d makes %s %+v, and it follows that it is %+v", c.Revision(), c.Key, c.Now, want)}
	}
	return nil
}

// Top is the last revision of the log.
func (l *Log) Top() uint64 { return l.first + uint64(len(l.changes)) }

// Change returns the change that made a revision.
func (l *Log) Change(revision uint64) (Change, bool) {
	if revision <= l.first || revision > l.Top() {
		return Change{}, false
	}
	return l.changes[revision-l.first-1], true
}

// At is a key at a revision.
func (l *Log) At(key string, revision uint64) Entry {
	places := l.byKey[key]
	i, _ := slices.BinarySearchFunc(places, revision+1, func(place int, r uint64) int {
		return cmp.Compare(l.changes[place].Revision(), r)
	})
	if i == 0 || l.changes[places[i-1]].Deleted {
		return Entry{}
	}
	return l.changes[places[i-1]].Now
}

// Written tells at which revisions a value was written.
func (l *Log) Written(value string) []uint64 { return l.byValue[value] }

// State is every key with a prefix at a revision.
func (l *Log) State(prefix string, revision uint64) map[string]Entry {
	state := make(map[string]Entry)
	for key := range l.byKey {
		if e := l.At(key, revision); strings.HasPrefix(key, prefix) && e != (Entry{}) {
			state[key] = e
		}
	}
	return state
}
