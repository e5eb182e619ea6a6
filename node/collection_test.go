package node

import (
	"runtime/debug"
	"testing"
	"time"
)

func TestNextGrowth(t *testing.T) {
	const mb = 1 << 20
	for name, test := range map[string]struct {
		now           int
		pause         time.Duration
		inUse, memory uint64
		want          int
	}{
		"a busy node":                       {100, 200 * time.Millisecond, 80 * mb, 24_000 * mb, 200},
		"busier still":                      {200, 200 * time.Millisecond, 80 * mb, 24_000 * mb, 400},
		"no further":                        {400, 200 * time.Millisecond, 80 * mb, 24_000 * mb, 400},
		"now and then":                      {400, 2 * time.Second, 80 * mb, 24_000 * mb, 400},
		"it is over":                        {400, 2 * time.Minute, 80 * mb, 24_000 * mb, 100},
		"a small machine":                   {100, 200 * time.Millisecond, 80 * mb, 1_000 * mb, 100},
		"a machine with a little room":      {200, 200 * time.Millisecond, 80 * mb, 4_000 * mb, 212},
		"more in use than it may have":      {400, 200 * time.Millisecond, 800 * mb, 8_000 * mb, 100},
		"nothing known of what is in use":   {100, 200 * time.Millisecond, 0, 24_000 * mb, 200},
		"calm, as it was before, and small": {100, time.Minute, 80 * mb, 500 * mb, 100},
	} {
		if got := nextGrowth(test.now, test.pause, test.inUse, test.memory); got != test.want {
			t.Errorf("%s: %d%%, want %d%%", name, got, test.want)
		}
	}
}

// TestPacer: what is decided is what Go is told, and is taken back in the end.
func TestPacer(t *testing.T) {
	now := time.Now()
	p := &pacer{growth: usualGrowth, last: now, memory: 1 << 40}
	told := func() int {
		was := debug.SetGCPercent(usualGrowth)
		debug.SetGCPercent(was)
		return was
	}
	defer debug.SetGCPercent(told())
	for _, want := range []int{200, 400, 400} {
		now = now.Add(100 * time.Millisecond)
		if !p.collection(now) || told() != want {
			t.Errorf("growth is %d%%, want %d%%", told(), want)
		}
	}
	p.stop()
	if p.collection(now.Add(time.Millisecond)) || told() != usualGrowth {
		t.Errorf("after the end growth is %d%%, and collections are looked at still", told())
	}
}
