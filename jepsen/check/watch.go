package check

import (
	"maps"
	"slices"
	"strings"
)

// Watch is a list and the watch that followed it, as one client saw them.
type Watch struct {
	What    string
	Prefix  string
	From    uint64           // the list's revision
	Start   map[string]Entry // the list
	Told    []Change         // in the order in which they came
	Through uint64           // all changes up to it were told
	// End is what the replica showed at revision Through, nil if nobody looked.
	End map[string]Entry
}

// Watches tells which watches were told something else than the log holds: each must
// be told every change of its prefix once and in order, and the list and what was told
// after it must add up to what the replica shows.
func Watches(l *Log, watches []Watch) []Anomaly {
	var found []Anomaly
	for _, w := range watches {
		if w.Start != nil {
			found = append(found, sameState(l, w.What+", its list", w.Prefix, w.From, w.Start)...)
		}
		found = append(found, w.told(l)...)
		if w.End != nil {
			found = append(found, sameState(l, w.What+", at its end", w.Prefix, w.Through, w.End)...)
		}
	}
	return found
}

func (w Watch) told(l *Log) []Anomaly {
	told := w.Told
	for revision := w.From + 1; revision <= min(w.Through, l.Top()); revision++ {
		c, ok := l.Change(revision)
		if !ok || !strings.HasPrefix(c.Key, w.Prefix) {
			continue
		}
		switch {
		case len(told) == 0 || told[0].Revision() > revision:
			return []Anomaly{anomaly("a watch lost an event", "%s was not told of revision %d (%s), and went on through %d", w.What, revision, c.Key, w.Through)}
		case told[0].Revision() < revision:
			return []Anomaly{anomaly("a watch repeats or turns back", "%s was told of revision %d where %d follows", w.What, told[0].Revision(), revision)}
		case told[0] != c:
			return []Anomaly{anomaly("watches differ", "%s was told %+v of revision %d, which is %+v", w.What, told[0], revision, c)}
		}
		told = told[1:]
	}
	if len(told) > 0 && told[0].Revision() <= l.Top() {
		return []Anomaly{anomaly("a watch repeats or turns back", "%s was told of revision %d after %d", w.What, told[0].Revision(), w.Through)}
	}
	return nil
}

// sameState compares what a replica showed at a revision with the log.
func sameState(l *Log, what, prefix string, revision uint64, shown map[string]Entry) []Anomaly {
	if revision > l.Top() {
		return nil // nobody was told so far
	}
	want := l.State(prefix, revision)
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if shown[key] != want[key] {
			return []Anomaly{anomaly("a wrong state", "%s: revision %d shows %s as %+v, and it is %+v", what, revision, key, shown[key], want[key])}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(shown)) {
		if _, ok := want[key]; !ok {
			return []Anomaly{anomaly("a wrong state", "%s: revision %d shows %s, which does not exist", what, revision, key)}
		}
	}
	return nil
}

// Seen is what a read showed: some keys at one revision.
type Seen struct {
	What     string
	Revision uint64
	Keys     map[string]Entry // all that were looked at, those that do not exist too
}

// Views tells which reads showed something that was not so at their revision.
func Views(l *Log, reads []Seen) []Anomaly {
	var found []Anomaly
	for _, r := range reads {
		for _, key := range slices.Sorted(maps.Keys(r.Keys)) {
			if want := l.At(key, r.Revision); r.Revision <= l.Top() && r.Keys[key] != want {
				found = append(found, anomaly("a wrong state", "%s: revision %d shows %s as %+v, and it is %+v", r.What, r.Revision, key, r.Keys[key], want))
			}
		}
	}
	return found
}
