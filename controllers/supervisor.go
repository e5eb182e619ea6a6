package controllers

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Back-off of a controller that panicked. One that ran for a while starts anew.
const (
	firstRestart = 100 * time.Millisecond
	lastRestart  = 30 * time.Second
	stable       = time.Minute
)

// controller is one of those the supervisor runs. start makes a fresh one: what a
// panic left behind is not used again.
type controller struct {
	name  string
	start func() (runner, error)
	first runner // made by start before the informers were started
}

type runner interface {
	Run(ctx context.Context) error
}

// supervise runs all controllers until ctx ends and each has returned.
func supervise(ctx context.Context, log *slog.Logger, all []controller) {
	var running sync.WaitGroup
	for _, c := range all {
		running.Go(func() { keepRunning(ctx, log.With("controller", c.name), &c) })
	}
	running.Wait()
}

func keepRunning(ctx context.Context, log *slog.Logger, c *controller) {
	for wait := firstRestart; ctx.Err() == nil; wait = min(2*wait, lastRestart) {
		began := time.Now()
		err := runOnce(ctx, c)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > stable {
			wait = firstRestart
		}
		log.Error("controller stopped, starting it again", "error", err, "after", wait)
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
		case <-timer.C:
		}
	}
}

func runOnce(ctx context.Context, c *controller) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = panicked(p)
		}
	}()
	r := c.first
	if c.first = nil; r == nil {
		if r, err = c.start(); err != nil {
			return err
		}
	}
	return r.Run(ctx)
}
