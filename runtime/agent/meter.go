package agent

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"kontiki/runtime/shim"
)

// Cgroups count CPU time; a rate needs two looks at them. The looks of those who
// ask are kept for a while, so that one who asks regularly is answered at once, over the time since it
// asked before; only the first waits, for rateLeast. Nobody looks when nobody asks.
const (
	rateLeast  = time.Second
	rateWanted = 10 * time.Second // upstream measures over as much
	rateKept   = time.Minute
)

// meter measures what the machine and its pods use, when it is asked.
type meter struct {
	shim interface {
		List(ctx context.Context) ([]shim.Container, error)
		Usage(ctx context.Context) (shim.Usage, error)
	}

	mu    sync.Mutex // protects looks; held for as long as a measurement takes
	looks []look     // oldest first, at most rateKept / rateLeast
}

// look is the CPU time that every group has had, in nanoseconds.
type look struct {
	at    time.Time
	nanos map[string]uint64
}

// Keys of groups in looks and rates.
const (
	keyMachine = "machine"
	keyShim    = "shim"
	keyPods    = "pods"
)

func sandboxKey(id string) string   { return "sandbox/" + id }
func containerKey(id string) string { return "container/" + id }

// measurement is what is used at one moment.
type measurement struct {
	at         time.Time
	usage      shim.Usage
	containers []shim.Container
	rates      map[string]uint64 // nano-cores; nil if they were not asked for
}

// measure looks now. With rates it may take rateLeast.
func (m *meter) measure(ctx context.Context, rates bool) (measurement, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now, cur, err := m.lookLocked(ctx)
	if err != nil || !rates {
		return now, err
	}
	base, wait := baseOf(m.looks, cur)
	if wait > 0 {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return measurement{}, ctx.Err()
		}
		if now, cur, err = m.lookLocked(ctx); err != nil {
			return measurement{}, err
		}
	}
	now.rates = ratesBetween(base, cur, begins(now.containers))
	return now, nil
}

// lookLocked reads all groups and remembers what they say.
func (m *meter) lookLocked(ctx context.Context) (measurement, look, error) {
	containers, err := m.shim.List(ctx)
	if err != nil {
		return measurement{}, look{}, fmt.Errorf("list containers: %w", err)
	}
	u, err := m.shim.Usage(ctx)
	if err != nil {
		return measurement{}, look{}, fmt.Errorf("read cgroups: %w", err)
	}
	cur := look{at: u.Machine.At, nanos: map[string]uint64{keyMachine: u.Machine.CPUNanos, keyShim: u.Shim.CPUNanos, keyPods: u.Pods.CPUNanos}}
	for id, s := range u.Sandboxes {
		cur.nanos[sandboxKey(id)] = s.CPUNanos
	}
	for id, s := range u.Containers {
		cur.nanos[containerKey(id)] = s.CPUNanos
	}
	m.looks = remember(m.looks, cur)
	return measurement{at: cur.at, usage: u, containers: containers}, cur, nil
}

// remember adds a look, and drops those that are too old and those that came close upon another.
func remember(looks []look, cur look) []look {
	looks = slices.DeleteFunc(slices.Clone(looks), func(l look) bool { return cur.at.Sub(l.at) > rateKept || l.at.After(cur.at) })
	if n := len(looks); n > 0 && cur.at.Sub(looks[n-1].at) < rateLeast {
		return looks
	}
	return append(looks, cur)
}

// baseOf chooses the look that a rate up to cur begins with: the youngest that is
// as old as wanted, else the oldest; and how long to wait until it is old enough.
func baseOf(looks []look, cur look) (base look, wait time.Duration) {
	base = looks[0]
	for _, l := range looks {
		if cur.at.Sub(l.at) >= rateWanted {
			base = l
		}
	}
	return base, max(0, rateLeast-cur.at.Sub(base.at))
}

// begins says when what may be missing in an older look began.
func begins(containers []shim.Container) map[string]time.Time {
	at := map[string]time.Time{}
	for _, c := range containers {
		at[containerKey(c.ID)] = c.Created
		if first, ok := at[sandboxKey(c.SandboxID)]; !ok || c.Created.Before(first) {
			at[sandboxKey(c.SandboxID)] = c.Created
		}
	}
	return at
}

// ratesBetween is how fast each group's CPU time has grown. What was not there at
// the base began at nothing.
func ratesBetween(base, cur look, began map[string]time.Time) map[string]uint64 {
	rates := map[string]uint64{}
	for key := range maps.Keys(cur.nanos) {
		from, had := base.at, base.nanos[key]
		if _, known := base.nanos[key]; !known {
			if from = began[key]; from.IsZero() {
				continue
			}
		}
		if span := cur.at.Sub(from); span > 0 && cur.nanos[key] >= had {
			rates[key] = uint64(float64(cur.nanos[key]-had) / span.Seconds())
		}
	}
	return rates
}
