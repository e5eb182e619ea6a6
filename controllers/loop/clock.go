package loop

import (
	"sync"
	"time"

	"k8s.io/utils/clock"
)

// unfinishedPace is how often a queue that tells metrics looks at how long it has been
// worked on what is not finished (client-go v0.37, util/workqueue/queue.go).
const unfinishedPace = 500 * time.Millisecond

// busyClock is the queue's clock. Its ticker for unfinished work ticks only while there is
// some: a ticker for each controller would wake an idle leader fifty times a second.
type busyClock struct {
	clock.RealClock
	ticks chan time.Time

	mu    sync.Mutex // protects what follows
	busy  int        // keys that are worked on
	timer *time.Timer
	told  bool // of unfinished work, since nobody worked last
}

func newBusyClock() *busyClock { return &busyClock{ticks: make(chan time.Time, 1)} }

// NewTicker implements clock.WithTicker.
func (c *busyClock) NewTicker(d time.Duration) clock.Ticker {
	if d == unfinishedPace {
		return busyTicker{c}
	}
	return c.RealClock.NewTicker(d)
}

type busyTicker struct{ c *busyClock }

func (t busyTicker) C() <-chan time.Time { return t.c.ticks }
func (t busyTicker) Stop()               {}

// begin is called when a worker has taken a key, end when it is done with it.
func (c *busyClock) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy++; c.busy > 1 {
		return
	}
	if c.timer == nil {
		c.timer = time.AfterFunc(unfinishedPace, c.tick)
		return
	}
	c.timer.Reset(unfinishedPace)
}

func (c *busyClock) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy--; c.busy > 0 {
		return
	}
	c.timer.Stop()
	if c.told { // that nothing is unfinished any more
		c.told = false
		c.tellLocked()
	}
}

func (c *busyClock) tick() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy == 0 {
		return
	}
	c.told = true
	c.tellLocked()
	c.timer.Reset(unfinishedPace)
}

func (c *busyClock) tellLocked() {
	select {
	case c.ticks <- time.Now():
	default: // the queue has not looked since the last one
	}
}
