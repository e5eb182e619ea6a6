// Package check tells whether a history is one that the store may have: histories
// in, anomalies out. It is pure: no clock but the limit of a search, no I/O, and it
// knows nothing of what made the history, so that what drives real processes and
// what simulates them are judged alike.
//
// The functions share nothing and may be called from anywhere. Proofs import it, and
// the tests that simulate the store.
package check

import (
	"cmp"
	"fmt"
	"slices"
)

// Anomaly is something that a history shows and must not.
type Anomaly struct {
	Kind string  // what is wrong, in a few words that are the same for the same kind of error
	Text string  // where
	At   []int64 // the places of the calls concerned, where they are known
}

func (a Anomaly) String() string { return a.Kind + ": " + a.Text }

func anomaly(kind, format string, args ...any) Anomaly {
	return Anomaly{Kind: kind, Text: fmt.Sprintf(format, args...)}
}

// at says which calls an anomaly concerns.
func (a Anomaly) at(places ...int64) Anomaly {
	a.At = append(a.At, places...)
	return a
}

// Outcome is what the caller of an operation knows of it.
type Outcome uint8

const (
	OK      Outcome = iota + 1 // it took effect between its call and its return
	Failed                     // it never takes effect
	Unknown                    // it takes effect at some time after its call, or never
)

// Span says when an operation was called and when it returned: places in one order
// of all calls and returns of a history, not times, since a simulated clock stands
// still while much happens. Return counts for operations that are OK alone.
type Span struct{ Call, Return int64 }

// Point is an operation of which it is known at which revision it took effect.
type Point struct {
	Span
	Outcome  Outcome // OK, or Unknown if it is known from elsewhere that it took effect
	Revision uint64
	Changed  bool // it made that revision; else it saw it
	What     string
}

// RealTime tells which operations took effect before others that had returned
// before they were called. For writes and linearizable reads that makes the order of
// revisions the order in which all of them happened; for the local reads of one
// process, that they never go back.
func RealTime(points []Point) []Anomaly {
	byCall := slices.SortedFunc(slices.Values(points), func(a, b Point) int { return cmp.Compare(a.Call, b.Call) })
	var returned []Point
	for _, p := range points {
		if p.Outcome == OK {
			returned = append(returned, p)
		}
	}
	slices.SortFunc(returned, func(a, b Point) int { return cmp.Compare(a.Return, b.Return) })
	var found []Anomaly
	var latest Point
	for _, p := range byCall {
		for len(returned) > 0 && returned[0].Return < p.Call {
			if returned[0].Revision > latest.Revision {
				latest = returned[0]
			}
			returned = returned[1:]
		}
		switch {
		case p.Changed && p.Revision <= latest.Revision:
			found = append(found, anomaly("a write in the past", "%s took effect at revision %d, and %s at %d had returned before it was called",
				p.What, p.Revision, latest.What, latest.Revision).at(p.Call, latest.Call))
		case !p.Changed && p.Revision < latest.Revision:
			found = append(found, anomaly("a stale read", "%s saw revision %d, and %s at %d had returned before it was called",
				p.What, p.Revision, latest.What, latest.Revision).at(p.Call, latest.Call))
		}
	}
	return found
}
