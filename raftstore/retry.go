package raftstore

import (
	"context"
	"errors"
	"time"
)

const (
	retryWait   = 5 * time.Millisecond // after a failed attempt, doubled each time
	retryMax    = 100 * time.Millisecond
	attemptTime = 5 * time.Second // after which a silent leader is asked again
)

// finalError ends the attempts of atLeader.
type finalError struct{ error }

func final(err error) error { return finalError{err} }

func (e finalError) Unwrap() error { return e.error }

// atLeader calls attempt with the present leader until it succeeds, fails for
// good, or ctx ends. An attempt is cut off when leadership changes.
func (s *Store) atLeader(ctx context.Context, attempt func(context.Context, Leadership) error) error {
	wait := retryWait
	var last error
	for {
		leader, changed := s.leadership.get()
		if leader.LeaderID != "" {
			err := s.attempt(ctx, changed, leader, attempt)
			var fin finalError
			switch {
			case err == nil:
				return nil
			case errors.As(err, &fin):
				return fin.error
			}
			last = err
		}
		timer := time.NewTimer(wait)
		select {
		case <-changed:
		case <-timer.C:
			wait = min(2*wait, retryMax)
		case <-ctx.Done():
			timer.Stop()
			return errors.Join(context.Cause(ctx), last)
		case <-s.closing:
			timer.Stop()
			return ErrClosed
		case <-s.fsm.halted:
			timer.Stop()
			return s.fsm.haltErr
		}
		timer.Stop()
	}
}

func (s *Store) attempt(ctx context.Context, changed <-chan struct{}, leader Leadership, attempt func(context.Context, Leadership) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, attemptTime, errors.New("the leader did not answer"))
	defer cancel()
	over := make(chan struct{})
	defer close(over)
	go func() {
		for {
			select {
			case <-changed:
			case <-over:
				return
			}
			var now Leadership
			if now, changed = s.leadership.get(); now.LeaderID != leader.LeaderID || now.Term != leader.Term {
				cancel()
				return
			}
		}
	}()
	return attempt(ctx, leader)
}
