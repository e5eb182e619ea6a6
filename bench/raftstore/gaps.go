package main

import (
	"sync"
	"time"
)

// gaps is the longest time in which no writer got an acknowledgement.
type gaps struct {
	mu      sync.Mutex
	last    time.Time
	longest time.Duration
	acks    int
}

func (g *gaps) ack() {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	if g.acks++; !g.last.IsZero() {
		g.longest = max(g.longest, now.Sub(g.last))
	}
	g.last = now
}

// take returns the longest gap and the number of acknowledgements, and begins anew.
func (g *gaps) take() (time.Duration, int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	longest, acks := g.longest, g.acks
	g.longest, g.acks = 0, 0
	return longest, acks
}

func (g *gaps) peek() (time.Duration, int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return max(g.longest, time.Since(g.last)), g.acks
}
