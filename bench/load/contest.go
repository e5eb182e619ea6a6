package load

import (
	"context"
	"fmt"
	"time"
)

// rounds is how often all take turns, so that they see the same moods of the machine.
const rounds = 4

// Contender does the same work as others.
type Contender interface {
	// Drive has n clients do the work for some time.
	Drive(ctx context.Context, n int, length time.Duration) (Latencies, error)
	// CPU is the CPU time that its processes have used so far.
	CPU() (time.Duration, error)
}

// Score is what one contender did.
type Score struct {
	Latencies
	CPU time.Duration
}

// Detail tells latencies and the CPU time of one call.
func (s Score) Detail(call string) string {
	text := fmt.Sprintf("%s / %s ms, CPU %d µs a %s", InMS(s.P50), InMS(s.P99), s.CPU.Microseconds()/int64(max(s.Count, 1)), call)
	if s.Failed > 0 {
		text += fmt.Sprintf(", %d failed", s.Failed)
	}
	return text
}

// Contest has all work for a time, each by itself, in turns.
func Contest(ctx context.Context, all []Contender, clients int, length time.Duration) ([]Score, error) {
	scores, parts := make([]Score, len(all)), make([][]Latencies, len(all))
	for range rounds {
		for i, c := range all {
			before, err := c.CPU()
			if err != nil {
				return nil, err
			}
			l, err := c.Drive(ctx, clients, length/rounds)
			if err == nil {
				err = context.Cause(ctx) // interrupted: what was measured is worth nothing
			}
			if err != nil {
				return nil, err
			}
			after, err := c.CPU()
			if err != nil {
				return nil, err
			}
			scores[i].CPU += after - before
			parts[i] = append(parts[i], l)
		}
	}
	for i := range scores {
		scores[i].Latencies = Merge(parts[i])
	}
	return scores, nil
}

// MS is a duration in milliseconds, as rows have it.
func MS(d time.Duration) float64 { return float64(d) / 1e6 }

// InMS is the same in words.
func InMS(d time.Duration) string { return fmt.Sprintf("%.1f", MS(d)) }

// Count is a number of things in words.
func Count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
