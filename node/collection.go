package node

import (
	"context"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Go collects garbage when the heap has grown by as much as was in use after the last
// collection. Little is in use on a node, so that under many requests it would collect
// several times a second, and spend a fifth of its time on that (seen while pods were
// bound). As long as collections follow each other so closely, the heap may grow further.
const (
	usualGrowth = 100 // percent of what is in use
	mostGrowth  = 400
	busyPause   = 500 * time.Millisecond // between two collections: the heap may grow more
	calmPause   = 5 * time.Second        // the load is over, and what it may cost in memory
	// heapShare of the memory that there is, of the machine or of this process's cgroup as it
	// was at the start, is what a heap may grow to for the sake of speed.
	heapShare = 16
)

// nextGrowth says how far the heap may grow until the next collection, by how far it
// might until the last one, and how long that took.
func nextGrowth(now int, pause time.Duration, inUse, memory uint64) int {
	next := now
	switch {
	case pause < busyPause:
		next = 2 * now
	case pause > calmPause:
		next = usualGrowth
	}
	next = min(next, mostGrowth)
	if room := float64(memory)/heapShare - float64(inUse); room < float64(inUse)*float64(next)/100 {
		next = int(100 * room / math.Max(float64(inUse), 1)) // a small machine has no memory to give
	}
	return max(next, usualGrowth)
}

// paceCollections sets how far the heap may grow after each collection, until ctx ends.
// It does nothing between them: an idle node stays idle.
// Nor does it where somebody has said (GOGC) how it is to be.
func paceCollections(ctx context.Context) error {
	asked := debug.SetGCPercent(usualGrowth)
	debug.SetGCPercent(asked)
	var machine unix.Sysinfo_t
	if err := unix.Sysinfo(&machine); err != nil || asked != usualGrowth {
		<-ctx.Done()
		return nil
	}
	memory := min(uint64(machine.Totalram)*uint64(machine.Unit), memoryLimit(os.DirFS("/")))
	p := &pacer{growth: usualGrowth, last: time.Now(), memory: memory}
	runtime.SetFinalizer(&collected{p}, (*collected).again)
	<-ctx.Done()
	p.stop()
	return nil
}

// pacer is told of each collection.
type pacer struct {
	memory uint64 // that there is

	mu     sync.Mutex // protects all below
	growth int
	last   time.Time
	ended  bool
}

// collected is what nothing refers to, so that each collection finds it.
type collected struct{ *pacer }

func (c *collected) again() {
	if c.collection(time.Now()) {
		runtime.SetFinalizer(c, (*collected).again)
	}
}

// collection takes note of one; false when that is wanted no more.
func (p *pacer) collection(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return false
	}
	next := nextGrowth(p.growth, now.Sub(p.last), inUse(), p.memory)
	p.last = now
	if next != p.growth {
		p.growth = next
		debug.SetGCPercent(next)
	}
	return true
}

func (p *pacer) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	debug.SetGCPercent(usualGrowth)
}

// inUse is what the last collection left in the heap.
func inUse() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
