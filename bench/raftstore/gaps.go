package main

import (
	"sync"
	"time"
)

// gaps is the longest time in which no writer got an acknowledgement, and what they got.
type gaps struct {
	mu      sync.Mutex
	last    time.Time
	longest time.Duration
	acks    int
	failed  int
}

// tally is what a gaps has counted.
type tally struct {
	Gap          time.Duration
	Acks, Failed int
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

func (g *gaps) fail() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.failed++
}

// reset begins anew.
func (g *gaps) reset() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.longest, g.acks, g.failed = 0, 0, 0
}

func (g *gaps) peek() tally {
	g.mu.Lock()
	defer g.mu.Unlock()
	return tally{max(g.longest, time.Since(g.last)), g.acks, g.failed}
}
