package plantest

import "maps"

// Late is the cache that a model's controller plans from. It may be some events behind, but
// not behind what the controller itself wrote: it waits until it sees that.
type Late[K comparable, V any] struct{ seen []map[K]V }

// Wrote has the cache show what there is now, and nothing before it again.
func (l *Late[K, V]) Wrote(now map[K]V) { l.seen = []map[K]V{maps.Clone(now)} }

// Happened has it show what there is now, or be behind.
func (l *Late[K, V]) Happened(now map[K]V) { l.seen = append(l.seen, maps.Clone(now)) }

// Behind is what the cache shows so many events behind. The map is the caller's.
func (l *Late[K, V]) Behind(events int) map[K]V {
	return maps.Clone(l.seen[max(0, len(l.seen)-1-events)])
}

// Crash ends what a controller does after some writes.
type Crash struct {
	After int  // writes that are still made
	Came  bool // one was not
}

// Write reports whether the next write is made.
func (c *Crash) Write() bool {
	c.After--
	c.Came = c.Came || c.After < 0
	return !c.Came
}
