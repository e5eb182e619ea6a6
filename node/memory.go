package node

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// memoryPace is how often Go collects in an idle process anyway, so that
	// looking costs no collection more.
	memoryPace = 2 * time.Minute
	// settleTime is when a node's start is over.
	settleTime = 20 * time.Second
	// hoard is how much free memory is worth a collection, in bytes.
	hoard = 8 << 20
)

// tendMemory gives memory back to the machine, once after the start and whenever
// much of it is free. A start uses as much again as stays in use, since it builds
// the descriptions of all kinds; Go would keep that for the next such time, which
// does not come.
func tendMemory(ctx context.Context) error {
	for wait := settleTime; ; wait = memoryPace {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
		if wait == settleTime || freeHeap() > hoard {
			debug.FreeOSMemory()
		}
	}
}

// freeHeap is what Go holds for objects to come, without what it has not collected yet.
func freeHeap() uint64 {
	samples := []metrics.Sample{{Name: "/memory/classes/heap/free:bytes"}, {Name: "/memory/classes/heap/unused:bytes"}}
	metrics.Read(samples)
	var sum uint64
	for _, s := range samples {
		sum += s.Value.Uint64()
	}
	return sum
}
