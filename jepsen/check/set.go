package check

import (
	"maps"
	"slices"
)

// Add is an attempt to add an element that nobody else adds.
type Add struct {
	Element string
	Outcome Outcome
	Call    int64 // its place, if it is known
}

// of says that an anomaly concerns an attempt.
func (a Add) of(found Anomaly) Anomaly {
	if a.Call != 0 {
		found = found.at(a.Call)
	}
	return found
}

// Set compares what was added with what a replica holds in the end: per element, how
// often it was written.
func Set(adds []Add, held map[string]uint64) []Anomaly {
	var found []Anomaly
	tried := make(map[string]bool, len(adds))
	for _, a := range adds {
		tried[a.Element] = true
		times := held[a.Element]
		switch {
		case a.Outcome == OK && times == 0:
			found = append(found, a.of(anomaly("a lost write", "%s was acknowledged and is not there", a.Element)))
		case a.Outcome == Failed && times > 0:
			found = append(found, a.of(anomaly("a write that failed happened", "%s is there, and its writer was told that it is not", a.Element)))
		case times > 1:
			found = append(found, a.of(anomaly("a write happened twice", "%s was written %d times and asked for once", a.Element, times)))
		}
	}
	for _, element := range slices.Sorted(maps.Keys(held)) {
		if !tried[element] {
			found = append(found, anomaly("a write from nowhere", "%s is there, and nobody wrote it", element))
		}
	}
	return found
}

// Counter compares a counter, counted up by compare and set, with what its writers
// were told.
func Counter(name string, value, acknowledged, unknown int) []Anomaly {
	switch {
	case value < acknowledged:
		return []Anomaly{anomaly("a lost write", "%s is %d, %d counts were acknowledged", name, value, acknowledged)}
	case value > acknowledged+unknown:
		return []Anomaly{anomaly("a write happened twice", "%s is %d, %d counts were acknowledged and of %d the outcome is unknown",
			name, value, acknowledged, unknown)}
	}
	return nil
}
