package gossip

import (
	"fmt"
	"maps"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"kontiki/gossip/internal/seeded"
)

// formPlan is a schedule for formation: a pure function of its seed.
type formPlan struct {
	seed                        int64
	expect, count, absent       int // of count nodes, absent are never started
	loss, double, leak, crashes float64
	spread, calls               time.Duration
	steps                       []formAct
}

type formAct struct {
	do   string // start, crash, trap, cut, heal, run
	ids  []string
	to   []string
	at   string // of a trap
	when string
	span time.Duration
}

func (a formAct) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s %s %s %s %s %v", a.do, strings.Join(a.ids, ","), strings.Join(a.to, ","), a.at, a.when, a.span))
}

func (p *formPlan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d: %d nodes (%d absent), expect %d, loss %.2f, double %.2f, leak %.2f, crashes %.2f, spread %v, calls %v\n",
		p.seed, p.count, p.absent, p.expect, p.loss, p.double, p.leak, p.crashes, p.spread, p.calls)
	for _, a := range p.steps {
		fmt.Fprintln(&b, a)
	}
	return b.String()
}

func (p *formPlan) ids() (ids []string) {
	for i := range p.count {
		ids = append(ids, string(rune('a'+i)))
	}
	return ids
}

// most is how many clusters may be founded: one below the promise's bound.
func (p *formPlan) most() int { return p.count / p.expect }

// formSteps are the outputs at which a node can crash: all that it stores or sends.
var formSteps = []string{"propose", "promise", "grant", "granted", "abort", "ask", "never", "persist", "found"}

func newFormPlan(seed int64) *formPlan {
	r := rand.New(rand.NewSource(seed))
	p := &formPlan{seed: seed, expect: 1 + r.Intn(4), loss: r.Float64() * r.Float64() / 2, double: r.Float64() / 2, leak: r.Float64() * r.Float64(),
		spread: time.Duration(r.Intn(2000)) * time.Millisecond, calls: time.Duration(r.Intn(5000)) * time.Millisecond}
	p.count = p.expect + r.Intn(p.expect)
	if r.Intn(8) == 0 {
		p.count = 2*p.expect + r.Intn(3) // beyond the bound: clusters share no node
	}
	p.absent = r.Intn(p.count - p.expect + 1)
	if r.Intn(2) == 0 {
		p.crashes = r.Float64() * 0.2
	}
	ids := p.ids()
	r.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	ids = ids[p.absent:]
	add := func(a formAct) { p.steps = append(p.steps, a) }
	some := func() []string { return slices.Clone(ids[:1+r.Intn(len(ids))]) }
	if r.Intn(3) == 0 {
		p.rivals(slices.Clone(ids), func(from, to []string) { add(formAct{do: "cut", ids: from, to: to}) })
		add(formAct{do: "start", ids: slices.Clone(ids)})
		add(formAct{do: "run", span: time.Duration(100+r.Intn(1000)) * time.Millisecond})
	}
	for range r.Intn(3) { // they come one after the other, and see each other by turns
		p.partition(r, slices.Clone(ids))
		add(formAct{do: "start", ids: some()})
		add(formAct{do: "run", span: time.Duration(r.Intn(300)) * time.Millisecond})
		add(formAct{do: "start", ids: some()})
		add(formAct{do: "run", span: time.Duration(r.Intn(600)) * time.Millisecond})
		add(formAct{do: "heal"})
	}
	for range 4 + r.Intn(16) {
		r.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
		switch r.Intn(8) {
		case 0, 1:
			add(formAct{do: "start", ids: some()})
		case 2:
			add(formAct{do: "crash", ids: some()})
		case 3:
			add(formAct{do: "trap", ids: ids[:1:1], at: formSteps[r.Intn(len(formSteps))], when: []string{"before", "after"}[r.Intn(2)]})
		case 4:
			p.partition(r, slices.Clone(ids))
		case 5:
			add(formAct{do: "heal"})
		default:
			add(formAct{do: "run", span: time.Duration(50+r.Intn(4000)) * time.Millisecond})
		}
	}
	return p
}

// partition adds cuts of some shape.
func (p *formPlan) partition(r *rand.Rand, ids []string) {
	cut := func(from, to []string) {
		p.steps = append(p.steps, formAct{do: "cut", ids: slices.Clone(from), to: slices.Clone(to)})
	}
	half := len(ids) / 2
	switch r.Intn(6) {
	case 0:
		cut(ids[:half], ids[half:])
	case 5:
		p.rivals(ids, cut)
	case 1: // one alone
		cut(ids[:1], ids[1:])
	case 2: // the two halves meet at one node
		if half > 0 {
			cut(ids[:half], ids[half+1:])
		}
	case 3: // each sees its neighbours
		for i := range ids {
			for j := range i - 1 {
				if i-j < len(ids)-1 {
					cut(ids[i:i+1], ids[j:j+1])
				}
			}
		}
	case 4: // on and off
		for range 3 {
			cut(ids[:half], ids[half:])
			p.steps = append(p.steps, formAct{do: "run", span: time.Duration(20+r.Intn(800)) * time.Millisecond}, formAct{do: "heal"},
				formAct{do: "run", span: time.Duration(20+r.Intn(800)) * time.Millisecond})
		}
	}
}

// rivals has the two that would coordinate not see each other, and all others see both.
func (p *formPlan) rivals(ids []string, cut func(from, to []string)) {
	slices.Sort(ids)
	if len(ids) > 1 {
		cut(ids[:1], ids[1:2])
	}
}

// play runs a plan and returns what is wrong.
func (p *formPlan) play() (*sim, []string) {
	s := newSim(rand.New(rand.NewSource(p.seed)).Float64)
	s.loss, s.double, s.leak, s.crashes, s.spread, s.calls = p.loss, p.double, p.leak, p.crashes, p.spread, p.calls
	for _, id := range p.ids() {
		s.add(id, p.expect, "")
	}
	there := map[string]bool{}
	for _, a := range p.steps {
		s.logf("step %s", a)
		s.counts["step "+a.do]++
		for _, id := range a.ids {
			there[id] = true
			switch a.do {
			case "start":
				s.boot(id)
			case "crash":
				s.crash(id)
			case "trap":
				s.boot(id)
				s.nodes[id].trap = trapAt(a.at, a.when)
			case "cut":
				for _, to := range a.to {
					s.cut[[2]string{id, to}] = true
				}
			}
		}
		switch a.do {
		case "heal":
			clear(s.cut)
		case "run":
			s.run(a.span)
		}
		if p.judge(s); len(s.broken) > 0 {
			return s, s.broken
		}
	}
	p.heal(s, there)
	return s, s.broken
}

// heal takes all faults away. Whoever was ever there is there again, and if that are
// enough, all of them are in one cluster at last.
func (p *formPlan) heal(s *sim, there map[string]bool) {
	clear(s.cut)
	s.loss, s.double, s.crashes, s.spread, s.calls = 0, 0, 0, 0, 0
	for _, id := range slices.Sorted(maps.Keys(there)) {
		s.boot(id)
		s.nodes[id].trap = nil
	}
	s.run(5 * time.Minute)
	p.judge(s)
	s.counts["clusters"] += len(s.clusters)
	if len(there) < p.expect || len(s.clusters) > 1 {
		return
	}
	s.counts["formed"]++
	for id := range there {
		if s.nodes[id].cluster == "" {
			s.broken = append(s.broken, id+" is in no cluster after everything came back")
		}
	}
}

func (p *formPlan) judge(s *sim) {
	if len(s.clusters) > p.most() {
		s.broken = append(s.broken, fmt.Sprintf("%d clusters were founded, %d are possible: %v", len(s.clusters), p.most(), s.clusters))
	}
}

func trapAt(at, when string) func(formOutput) string {
	return func(out formOutput) string {
		hit := at == "persist" && out.persist || at == "found" && out.found != nil
		for _, m := range out.sends {
			hit = hit || string(m.msg.Kind) == at
		}
		if hit {
			return when
		}
		return ""
	}
}

// fromEnvironment reads a number that a user may set.
func fromEnvironment(t *testing.T, name string, otherwise int64) int64 {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// TestFormationSchedules plays SCHEDULES schedules from the seed KONTIKI_SEED on: never
// more clusters than there may be, no node in two, and one with everybody in it when the
// faults are over. In a build with two promises, one of them must show it.
func TestFormationSchedules(t *testing.T) {
	seed, most := fromEnvironment(t, "KONTIKI_SEED", rand.Int63()>>20), fromEnvironment(t, "SCHEDULES", 200)
	counts, in := map[string]int{}, map[string]int{}
	began := time.Now()
	var played int64
	for played = 0; played < most; played++ {
		p := newFormPlan(seed + played)
		s, broken := p.play()
		for what, n := range s.counts {
			counts[what] += n
			in[what]++
		}
		if len(broken) == 0 {
			continue
		}
		if seeded.TwoPromises {
			fmt.Printf("found after %d schedules (seed %d): %s\n", played+1, p.seed, broken[0])
			return
		}
		t.Errorf("seed %d: %s; the schedule and what came of it are in %s (run it again: KONTIKI_SEED=%d SCHEDULES=1)", p.seed, strings.Join(broken, "; "), p.keep(t, s), p.seed)
	}
	var b strings.Builder
	for _, what := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(&b, "%10d %10d  %s\n", counts[what], in[what], what)
	}
	t.Logf("%d schedules of formation from seed %d in %v\n%10s %10s\n%s", played, seed, time.Since(began).Round(time.Millisecond), "times", "schedules", &b)
	if seeded.TwoPromises {
		t.Errorf("two promises of one node were not found in %d schedules", played)
	}
}

// keep writes a schedule and what came of it into a directory, and returns that.
func (p *formPlan) keep(t *testing.T, s *sim) string {
	dir := os.Getenv("KONTIKI_HISTORIES")
	if dir == "" {
		dir = filepath.Join(os.TempDir(), "kontiki-histories")
	}
	dir = filepath.Join(dir, fmt.Sprintf("formation-%d", p.seed))
	text := p.String() + "\n" + strings.Join(s.broken, "\n") + "\n\n" + s.summary() + strings.Join(s.log, "\n") + "\n"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "history"), []byte(text), 0o644); err != nil {
		t.Error(err)
	}
	return dir
}
