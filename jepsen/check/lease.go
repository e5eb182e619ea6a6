package check

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// Grant is a put of a value that nobody else writes, under a key that ends by itself.
type Grant struct {
	Value string
	At    time.Time // when it was asked for
	TTL   time.Duration
}

// Leases judges the keys with a prefix, which nothing but their end deletes: none ends
// before its time, by what watches saw when, and at last all whose time is over are
// gone. slack is by how much clocks differ, and grace how late an end may be.
func Leases(l *Log, prefix string, grants []Grant, seen map[uint64]time.Time, slack time.Duration, now time.Time, grace time.Duration) []Anomaly {
	byValue := make(map[string]Grant, len(grants))
	for _, g := range grants {
		byValue[g.Value] = g
	}
	var found []Anomaly
	for _, c := range l.changes {
		if !c.Deleted || !strings.HasPrefix(c.Key, prefix) {
			continue
		}
		g := byValue[c.Prev.Value]
		at, told := seen[c.Revision()]
		if early := g.At.Add(g.TTL - slack).Sub(at); told && early > 0 {
			found = append(found, anomaly("a key ended early", "%s ended at revision %d, %v before the %v it was granted", c.Key, c.Revision(), early, g.TTL))
		}
	}
	state := l.State(prefix, l.Top())
	for _, key := range slices.Sorted(maps.Keys(state)) {
		g := byValue[state[key].Value]
		if late := now.Sub(g.At.Add(g.TTL + slack)); late > grace {
			found = append(found, anomaly("a key outlived its time", "%s is there %v after the %v it was granted", key, late, g.TTL))
		}
	}
	return found
}
