package check

import (
	"slices"
	"strings"
)

// Compare is a condition of a transaction: the key was changed last at Mod, or does
// not exist if that is 0.
type Compare struct {
	Key string
	Mod uint64
}

// Update is a put of a value that nobody else writes, or a delete.
type Update struct {
	Key, Value string
	Deleted    bool
}

// Txn is a transaction, and what its caller was told.
type Txn struct {
	Span
	What      string
	Outcome   Outcome
	Compares  []Compare
	Updates   []Update
	Succeeded bool     // if it is OK
	Revision  uint64   // of the store after it
	Revisions []uint64 // per update; 0 for the delete of a key that did not exist
	Current   []Entry  // per compare, if it did not succeed
}

// Txns compares transactions with the log: those that succeeded are in it, whole, in
// consecutive revisions and where their compares hold; those that did not are not, and
// were told why; those of unknown outcome are in it whole or not at all. Every change in
// the log is of a transaction, but for deletes of keys that end by themselves, whose
// prefix is given if there are any. It also returns the points at which they took effect.
func Txns(l *Log, txns []Txn, expiring string) ([]Anomaly, []Point) {
	var found []Anomaly
	var points []Point
	known := make(map[string]bool)        // values
	deleted := make(map[uint64]bool)      // revisions
	maybeDeleted := make(map[string]bool) // keys
	for _, t := range txns {
		for i, u := range t.Updates {
			known[u.Value] = true
			if u.Deleted && t.Outcome == OK && i < len(t.Revisions) {
				deleted[t.Revisions[i]] = true
			}
			if u.Deleted && t.Outcome == Unknown {
				maybeDeleted[u.Key] = true
			}
		}
		var point *Point
		var bad []Anomaly
		switch t.Outcome {
		case OK:
			bad, point = t.ok(l)
		case Failed:
			bad = t.failed(l)
		case Unknown:
			bad, point = t.unknown(l)
		}
		found = append(found, bad...)
		if point != nil {
			points = append(points, *point)
		}
	}
	for revision := l.first + 1; revision <= l.Top(); revision++ {
		c, _ := l.Change(revision)
		switch {
		case !c.Deleted && !known[c.Now.Value]:
			found = append(found, anomaly("a write from nowhere", "revision %d puts %q under %s, and nobody wrote it", revision, c.Now.Value, c.Key))
		case c.Deleted && !deleted[revision] && !maybeDeleted[c.Key] && (expiring == "" || !strings.HasPrefix(c.Key, expiring)):
			found = append(found, anomaly("a write from nowhere", "revision %d deletes %s, and nobody did", revision, c.Key))
		}
	}
	return found, points
}

func (t Txn) point(revision uint64, changed bool) *Point {
	return &Point{Span: t.Span, Outcome: t.Outcome, Revision: revision, Changed: changed, What: t.What}
}

func (t Txn) ok(l *Log) ([]Anomaly, *Point) {
	if !t.Succeeded {
		return t.refused(l), t.point(t.Revision, false)
	}
	made := slices.DeleteFunc(slices.Clone(t.Revisions), func(r uint64) bool { return r == 0 })
	if len(t.Revisions) != len(t.Updates) {
		return []Anomaly{anomaly("a wrong result", "%s made %d changes and was told of %d", t.What, len(t.Updates), len(t.Revisions))}, nil
	}
	before := t.Revision - uint64(len(made))
	for i, r := range made {
		if r != before+uint64(i)+1 {
			return []Anomaly{anomaly("a torn transaction", "%s took revisions %v and ended at %d", t.What, t.Revisions, t.Revision)}, nil
		}
	}
	if t.Revision > l.Top() {
		return []Anomaly{anomaly("a lost write", "%s was acknowledged at revision %d, the last one is %d", t.What, t.Revision, l.Top())}, nil
	}
	for i, u := range t.Updates {
		c, _ := l.Change(t.Revisions[i])
		switch {
		case t.Revisions[i] == 0 && (!u.Deleted || l.At(u.Key, before) != (Entry{})):
			return []Anomaly{anomaly("a wrong result", "%s did not change %s, and should have", t.What, u.Key)}, nil
		case t.Revisions[i] != 0 && (c.Key != u.Key || c.Deleted != u.Deleted || !u.Deleted && c.Now.Value != u.Value):
			return []Anomaly{anomaly("a lost write", "%s was acknowledged %s at revision %d, which is %+v", t.What, u.Key, t.Revisions[i], c)}, nil
		}
	}
	return t.holds(l, before), t.point(t.Revision, len(made) > 0)
}

// holds tells which compares did not hold at a revision.
func (t Txn) holds(l *Log, revision uint64) []Anomaly {
	for _, c := range t.Compares {
		if is := l.At(c.Key, revision); is.Mod != c.Mod {
			return []Anomaly{anomaly("not serializable", "%s happened after revision %d on the condition that %s was changed last at %d, and that was at %d",
				t.What, revision, c.Key, c.Mod, is.Mod)}
		}
	}
	return nil
}

// refused judges a transaction whose compares did not hold.
func (t Txn) refused(l *Log) []Anomaly {
	if t.Revision > l.Top() {
		return nil
	}
	if len(t.Current) != len(t.Compares) {
		return []Anomaly{anomaly("a wrong result", "%s was told %d of %d keys", t.What, len(t.Current), len(t.Compares))}
	}
	differs := false
	for i, c := range t.Compares {
		is := l.At(c.Key, t.Revision)
		if t.Current[i] != is {
			return []Anomaly{anomaly("not serializable", "%s was told that %s is %+v at revision %d, and it is %+v", t.What, c.Key, t.Current[i], t.Revision, is)}
		}
		differs = differs || is.Mod != c.Mod
	}
	if !differs {
		return []Anomaly{anomaly("not serializable", "%s was refused at revision %d, where all it asked for holds", t.What, t.Revision)}
	}
	return t.failed(l)
}

// failed judges a transaction that must not be in the log.
func (t Txn) failed(l *Log) []Anomaly {
	for _, u := range t.Updates {
		if at := l.Written(u.Value); !u.Deleted && len(at) > 0 {
			return []Anomaly{anomaly("a write that failed happened", "%s wrote %s at revision %d, and was told that it did not", t.What, u.Key, at[0])}
		}
	}
	return nil
}

// unknown judges a transaction that may be in the log. Deletes alone cannot be told
// from those of others.
func (t Txn) unknown(l *Log) ([]Anomaly, *Point) {
	var first, last uint64
	missing := ""
	for _, u := range t.Updates {
		if u.Deleted {
			continue
		}
		at := l.Written(u.Value)
		if len(at) == 0 {
			missing = u.Key
			continue
		}
		if first == 0 {
			first = at[0]
		}
		last = at[0]
	}
	switch {
	case first == 0:
		return nil, nil
	case missing != "" || last-first >= uint64(len(t.Updates)):
		return []Anomaly{anomaly("a torn transaction", "%s, of unknown outcome, is in revisions %d to %d, without %q", t.What, first, last, missing)}, nil
	}
	if t.Updates[0].Deleted {
		return nil, nil // where it began cannot be told
	}
	return t.holds(l, first-1), t.point(last, true)
}
