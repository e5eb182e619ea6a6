package podcontrol

import "sync"

const (
	firstBatch = 1
	// maxCalls bounds the calls under way at once. The API takes 200 writes of the
	// cluster's own components at a time and makes others come again a second later; what
	// one owner has to do must leave room for all the rest, and it is no quicker with more.
	maxCalls = 64
)

// SlowStart calls fn n times in batches of 1, 2, 4, …, each batch as a whole, and
// stops after a batch with a failure: a quota that refuses one pod is not asked
// five hundred times. fn gets the number of its call.
func SlowStart(n int, fn func(i int) error) (done int, err error) {
	started := 0
	for batch := min(n, firstBatch); batch > 0; batch = min(2*batch, n-started) {
		failures := concurrently(batch, func(i int) error { return fn(started + i) })
		started += batch
		done += batch - len(failures)
		if len(failures) > 0 {
			return done, failures[0]
		}
	}
	return done, nil
}

// Each calls fn for all items, some at once, and returns the first failure.
func Each[T any](items []T, fn func(T) error) error {
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
	slots := make(chan struct{}, maxCalls)
	for i := range n {
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
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
