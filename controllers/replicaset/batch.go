package replicaset

import (
	"errors"
	"sync"
)

const firstBatch = 1

// refusal is a create or delete the API refused, with the reason the condition shows.
type refusal struct {
	reason string
	err    error
}

func (r refusal) Error() string { return r.err.Error() }
func (r refusal) Unwrap() error { return r.err }

func troubleOf(err error) trouble {
	var r refusal
	if errors.As(err, &r) {
		return trouble{r.reason, r.err.Error()}
	}
	return trouble{}
}

// slowStart calls fn n times in batches of 1, 2, 4, …, each batch at once, and
// stops after a batch with a failure: a quota that refuses one pod is not asked
// five hundred times.
func slowStart(n int, fn func() error) (done int, err error) {
	for batch := min(n, firstBatch); batch > 0; batch = min(2*batch, n-done) {
		failures := concurrently(batch, func(int) error { return fn() })
		done += batch - len(failures)
		if len(failures) > 0 {
			return done, failures[0]
		}
	}
	return done, nil
}

// each calls fn for all items at once and returns the first failure.
func each[T any](items []T, fn func(T) error) error {
	if failures := concurrently(len(items), func(i int) error { return fn(items[i]) }); len(failures) > 0 {
		return failures[0]
	}
	return nil
}

func concurrently(n int, fn func(i int) error) []error {
	var (
		group    sync.WaitGroup
		mu       sync.Mutex
		failures []error
	)
	for i := range n {
		group.Go(func() {
			if err := fn(i); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failures = append(failures, err)
			}
		})
	}
	group.Wait()
	return failures
}
