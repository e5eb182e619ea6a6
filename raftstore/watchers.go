package raftstore

import (
	"maps"
	"slices"
	"sync"
)

// watchers knows who watches what, so that an event wakes only those whose
// prefix it has. The others hear of the revision at a gentle pace (runProgress),
// and need not look through what does not concern them.
type watchers struct {
	mu      sync.Mutex
	watches map[string]map[*Watch]struct{} // by prefix
	count   map[int]int                    // prefixes by length
	lengths []int                          // ascending
}

func newWatchers() *watchers {
	return &watchers{watches: make(map[string]map[*Watch]struct{}), count: make(map[int]int)}
}

func (ws *watchers) add(w *Watch) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	set := ws.watches[w.prefix]
	if set == nil {
		set = make(map[*Watch]struct{})
		ws.watches[w.prefix] = set
		ws.count[len(w.prefix)]++
		ws.lengths = slices.Sorted(maps.Keys(ws.count))
	}
	set[w] = struct{}{}
}

func (ws *watchers) remove(w *Watch) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	set := ws.watches[w.prefix]
	delete(set, w)
	if len(set) > 0 {
		return
	}
	delete(ws.watches, w.prefix)
	if ws.count[len(w.prefix)]--; ws.count[len(w.prefix)] == 0 {
		delete(ws.count, len(w.prefix))
		ws.lengths = slices.Sorted(maps.Keys(ws.count))
	}
}

// tell marks and wakes the watches that events concern. Its caller holds the
// FSM's mutex, so that no watch looks meanwhile.
func (ws *watchers) tell(events []Event) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for i := range events {
		key := events[i].KV.Key
		for _, n := range ws.lengths {
			if n > len(key) {
				break
			}
			for w := range ws.watches[key[:n]] {
				w.lookFrom.CompareAndSwap(0, events[i].Revision())
				w.rouse()
			}
		}
	}
}

// tellAll wakes all watches. With lost, they may have missed anything.
func (ws *watchers) tellAll(lost bool) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for _, set := range ws.watches {
		for w := range set {
			if lost {
				w.lookFrom.Store(1)
			}
			w.rouse()
		}
	}
}

func (w *Watch) rouse() {
	select {
	case w.wake <- struct{}{}:
	default: // it has not looked since it was told last
	}
}
