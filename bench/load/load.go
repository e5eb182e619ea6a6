// Package load has writers in closed loops, and sums up what they saw. Only the
// bench imports it.
package load

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Latencies sums up what writers saw.
type Latencies struct {
	Count    int
	Took     time.Duration
	P50, P99 time.Duration
	Max      time.Duration
	Failed   int
}

// PerSecond is the rate.
func (l Latencies) PerSecond() float64 { return float64(l.Count) / l.Took.Seconds() }

// Summarize makes Latencies of single ones, which it sorts.
func Summarize(all []time.Duration, took time.Duration, failed int) Latencies {
	l := Latencies{Count: len(all), Took: took, Failed: failed}
	if len(all) == 0 {
		return l
	}
	slices.Sort(all)
	l.P50, l.P99, l.Max = all[len(all)/2], all[len(all)*99/100], all[len(all)-1]
	return l
}

// Merge joins rounds; of quantiles it takes the median.
func Merge(all []Latencies) Latencies {
	var out Latencies
	var p50, p99 []time.Duration
	for _, l := range all {
		out.Count, out.Took, out.Failed, out.Max = out.Count+l.Count, out.Took+l.Took, out.Failed+l.Failed, max(out.Max, l.Max)
		p50, p99 = append(p50, l.P50), append(p99, l.P99)
	}
	slices.Sort(p50)
	slices.Sort(p99)
	out.P50, out.P99 = p50[len(p50)/2], p99[len(p99)/2]
	return out
}

// Drive has writers call write in a closed loop for some time; n counts the
// calls of one writer.
func Drive(ctx context.Context, writers int, length time.Duration, write func(ctx context.Context, writer, n int) error) Latencies {
	began := time.Now()
	until := began.Add(length)
	each, failed := make([][]time.Duration, writers), make([]int, writers)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for n := 0; time.Now().Before(until) && ctx.Err() == nil; n++ {
				start := time.Now()
				if err := write(ctx, w, n); err != nil {
					failed[w]++
					continue
				}
				each[w] = append(each[w], time.Since(start))
			}
		})
	}
	wg.Wait()
	bad := 0
	for _, n := range failed {
		bad += n
	}
	return Summarize(slices.Concat(each...), time.Since(began), bad)
}
