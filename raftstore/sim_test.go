package raftstore

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kontiki/jepsen/check"
	"kontiki/raftstore/internal/seeded"
)

// runSimPlan runs a schedule and returns what is wrong with what came of it.
func runSimPlan(t *testing.T, plan *simPlan) (*simHistory, []check.Anomaly) {
	var h *simHistory
	dir, err := os.MkdirTemp("", "kontiki-schedule-") // gone before the next one begins
	if err != nil {
		t.Error(err)
		return newSimHistory(), nil
	}
	defer os.RemoveAll(dir)
	inBubble(t, func() {
		c := newSimCluster(plan, dir)
		h = c.simHistory
		c.run()
		h.counts["elections"] = len(h.terms)
		for _, n := range c.nodes {
			h.counts["disk: writes"] += n.disk.writes
			h.counts["disk: writes refused"] += n.disk.refused
			h.counts["disk: writes lost with the power"] += n.disk.lost
		}
		h.counts["streams broken by being flaky"] += c.net.broke
	}, func() { h.counts["futures that Raft forgot"]++ })
	return h, h.judge()
}

// inBubble runs f in a bubble of its own. Raft v1.8.0 leaves some of its futures without
// an answer when it is shut down, and who waits for one, waits for ever; a bubble does
// not end with goroutines in it, so it ends in a panic then.
func inBubble(t *testing.T, f, left func()) {
	defer func() {
		if p := recover(); p != nil {
			if !strings.Contains(fmt.Sprint(p), "blocked goroutines remain") {
				panic(p)
			}
			left()
		}
	}()
	synctest.Test(t, func(*testing.T) { f() })
}

// campaign runs many schedules and adds up what happened in them.
type campaign struct {
	seed  uint64
	began time.Time

	mu     sync.Mutex
	next   int
	done   int
	bad    int
	first  int // schedules until the first anomaly
	counts map[string]int
	in     map[string]int // schedules in which something was counted
}

// run runs schedules until n are done or, with stop, one shows an anomaly.
func (c *campaign) run(t *testing.T, n int, stop bool) {
	c.began, c.counts, c.in = time.Now(), make(map[string]int), make(map[string]int)
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // a schedule leaves much behind, at once
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for {
				i := c.take(n, stop)
				if i < 0 {
					return
				}
				plan := newSimPlan(c.seed + uint64(i))
				h, anomalies := runSimPlan(t, plan)
				c.add(t, plan, h, anomalies, !stop)
			}
		})
	}
	workers.Wait()
}

func (c *campaign) take(n int, stop bool) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.next == n || stop && c.bad > 0 {
		return -1
	}
	c.next++
	return c.next - 1
}

// progressEvery is after how many schedules a long campaign says how far it is.
const progressEvery = 500

func (c *campaign) add(t *testing.T, plan *simPlan, h *simHistory, anomalies []check.Anomaly, report bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done++
	for what, n := range h.counts {
		c.counts[what] += n
		c.in[what]++
	}
	if len(anomalies) > 0 {
		if c.bad++; c.bad == 1 {
			c.first = c.done
		}
		if report {
			reportSimPlan(t, plan, h, anomalies)
		} else {
			t.Logf("seed %d: %v", plan.Seed, anomalies[0])
		}
	}
	if c.done%progressEvery == 0 {
		fmt.Printf("%d schedules in %v, %d with anomalies\n", c.done, time.Since(c.began).Round(time.Second), c.bad)
	}
}

func reportSimPlan(t *testing.T, plan *simPlan, h *simHistory, anomalies []check.Anomaly) {
	dir, err := h.keep(plan, anomalies)
	if err != nil {
		t.Errorf("keep the history: %v", err)
	}
	shown := anomalies[:min(len(anomalies), 5)]
	t.Errorf("seed %d: %d anomalies; the schedule, its history and all of them are in %s (run it again: KONTIKI_SEED=%d SCHEDULES=1)", plan.Seed, len(anomalies), dir, plan.Seed)
	for _, a := range shown {
		t.Error(a)
	}
}

// String is a table of what happened: a schedule that does nothing proves nothing.
func (c *campaign) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d schedules from seed %d in %v, %d with anomalies\n%10s %10s\n", c.done, c.seed, time.Since(c.began).Round(time.Millisecond), c.bad, "times", "schedules")
	for _, what := range slices.Sorted(maps.Keys(c.counts)) {
		fmt.Fprintf(&b, "%10d %10d  %s\n", c.counts[what], c.in[what], what)
	}
	return b.String()
}

// fromEnvironment reads a number that a user may set.
func fromEnvironment(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// TestSchedules runs SCHEDULES schedules, from the seed KONTIKI_SEED on, or the one in
// the file KONTIKI_SCHEDULE. No history may show an anomaly.
func TestSchedules(t *testing.T) {
	if seeded.Error != seeded.Nothing {
		t.Skip("needs a build without a seeded error")
	}
	if file := os.Getenv("KONTIKI_SCHEDULE"); file != "" {
		playSimFile(t, file)
		return
	}
	c := campaign{seed: fromEnvironment(t, "KONTIKI_SEED", rand.Uint64()>>16)}
	c.run(t, int(fromEnvironment(t, "SCHEDULES", 50)), false)
	t.Logf("%v", &c)
}

func playSimFile(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := parseSimPlan(string(text))
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	if h, anomalies := runSimPlan(t, plan); len(anomalies) > 0 {
		reportSimPlan(t, plan, h, anomalies)
	}
}

// TestKnownSchedules plays what has shown an anomaly once.
func TestKnownSchedules(t *testing.T) {
	if seeded.Error != seeded.Nothing {
		t.Skip("needs a build without a seeded error")
	}
	files, err := filepath.Glob("testdata/schedules/*")
	if err != nil || len(files) == 0 {
		t.Fatalf("no schedules in testdata: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) { playSimFile(t, file) })
	}
}

// TestSeededError shows that schedules find the error that this build has on purpose.
func TestSeededError(t *testing.T) {
	if seeded.Error == seeded.Nothing {
		t.Skip("needs a build with a seeded error (make jepsen-bugs)")
	}
	c := campaign{seed: fromEnvironment(t, "KONTIKI_SEED", rand.Uint64()>>16)}
	most := int(fromEnvironment(t, "SCHEDULES", 200))
	c.run(t, most, true)
	if c.bad == 0 {
		t.Errorf("the error was not found in %d schedules\n%v", most, &c)
		return
	}
	fmt.Printf("found after %d schedules (seed %d)\n", c.first, c.seed)
}

// The text of a plan says all of it.
func TestPlansAreTexts(t *testing.T) {
	for seed := range uint64(200) {
		plan := newSimPlan(seed)
		again, err := parseSimPlan(plan.String())
		if err != nil {
			t.Fatal(err)
		}
		if plan.String() != again.String() {
			t.Fatalf("seed %d is\n%v\nand comes back as\n%v", seed, plan, again)
		}
		if other := newSimPlan(seed); plan.String() != other.String() {
			t.Fatalf("seed %d gives\n%v\nand\n%v", seed, plan, other)
		}
	}
	if _, err := parseSimPlan("# nothing\n\n1s"); err == nil || !strings.Contains(err.Error(), "line 3") {
		t.Errorf("a step without anything to do: %v", err)
	}
}
