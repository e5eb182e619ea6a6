package main

import (
	"context"
	"slices"
	"sync"
	"time"
)

// latencies sums up what writers saw.
type latencies struct {
	Count    int
	Took     time.Duration
	P50, P99 time.Duration
	Max      time.Duration
	Failed   int
}

func (l latencies) perSecond() float64 { return float64(l.Count) / l.Took.Seconds() }

func summarize(all []time.Duration, took time.Duration, failed int) latencies {
	l := latencies{Count: len(all), Took: took, Failed: failed}
	if len(all) == 0 {
		return l
	}
	slices.Sort(all)
	l.P50, l.P99, l.Max = all[len(all)/2], all[len(all)*99/100], all[len(all)-1]
	return l
}

// merge joins rounds; of quantiles it takes the median.
func merge(all []latencies) latencies {
	var out latencies
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

// drive has writers call write in a closed loop for some time; n counts the
// calls of one writer.
func drive(ctx context.Context, writers int, length time.Duration, write func(ctx context.Context, writer, n int) error) latencies {
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
	return summarize(slices.Concat(each...), time.Since(began), bad)
}

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
