package gossip

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"
)

// sim runs formers against each other in simulated time: one goroutine, no clock,
// a disk per node that survives crashes, and messages that can be lost, doubled
// and delayed.
type sim struct {
	start, now time.Time
	rnd        func() float64
	nodes      map[string]*simNode
	flight     []simEvent
	cut        map[[2]string]bool
	seq        int
	log        []string
	// loss, double and spread are the network's faults.
	loss, double float64
	spread       time.Duration
	// leak is the probability that a message passes a cut all the same: failure
	// detectors err, so safety must not rest on what the ring shows.
	leak float64
	// calls is how long Found and Accept may take.
	calls time.Duration
	// hold takes messages aside until they are let go.
	hold func(from string, m formSend) bool
	held []simEvent
	// crashes is the probability that a node crashes at an output: before its
	// state is stored, or after.
	crashes  float64
	clusters map[string][]string // founded: members by cluster id
	counts   map[string]int      // what happened
	broken   []string            // violated invariants
}

type simNode struct {
	id       string
	expect   int
	settings string
	up       bool
	f        *former
	disk     []byte
	wake     time.Time
	cluster  string // what its ring says; survives crashes, as the node stores it
	lastView formView
	trap     func(formOutput) string // "", "before" or "after": crash there
	life     int
}

// simEvent is something on its way to a node.
type simEvent struct {
	due  time.Time
	seq  int
	to   string
	life int // of the receiver, if it must be the same process
	in   formInput
	from string // of a message
}

func newSim(rnd func() float64) *sim {
	t := time.Unix(1_000_000, 0)
	return &sim{start: t, now: t, rnd: rnd, nodes: map[string]*simNode{}, cut: map[[2]string]bool{}, clusters: map[string][]string{}, counts: map[string]int{}}
}

func (s *sim) logf(format string, args ...any) {
	s.log = append(s.log, fmt.Sprintf("%6.2fs ", s.now.Sub(s.start).Seconds())+fmt.Sprintf(format, args...))
}

func (s *sim) add(id string, expect int, settings string) {
	s.nodes[id] = &simNode{id: id, expect: expect, settings: settings}
}

func (n *simNode) state() formState {
	st := formState{Format: fileVersion, NodeID: n.id}
	if n.disk != nil {
		if err := json.Unmarshal(n.disk, &st); err != nil {
			panic(err)
		}
	}
	return st
}

func (s *sim) boot(id string) {
	n := s.nodes[id]
	if n.up {
		return
	}
	n.up, n.life = true, n.life+1
	st := n.state()
	if st.Outcome != nil {
		n.cluster = st.Outcome.Proposal.ClusterID
	}
	n.f = newFormer(id, n.expect, []byte(n.settings), []byte("request-"+id), st, n.cluster)
	n.wake, n.lastView = s.now, formView{}
	n.trap = nil
	s.logf("%s starts", id)
}

func (s *sim) crash(id string) {
	n := s.nodes[id]
	if n.up {
		n.up, n.f = false, nil
		s.logf("%s crashes", id)
	}
}

func (s *sim) severed(a, b string) bool { return s.cut[[2]string{a, b}] || s.cut[[2]string{b, a}] }

func (s *sim) sees(a, b string) bool { return a != b && s.nodes[b].up && !s.severed(a, b) }

func (s *sim) callTime() time.Duration {
	return 5*time.Millisecond + time.Duration(s.rnd()*float64(s.calls))
}

func (s *sim) viewOf(id string) formView {
	v := formView{blank: map[string]formStance{}, alive: map[string]bool{}, clusters: map[string][]string{}}
	for _, o := range s.ids() {
		if !s.sees(id, o) {
			continue
		}
		v.alive[o] = true
		if c := s.nodes[o].cluster; c != "" {
			v.clusters[c] = append(v.clusters[c], o)
		} else if st := s.nodes[o].f.stance(); st != nil {
			v.blank[o] = *st
		}
	}
	return v
}

func (s *sim) ids() []string { return slices.Sorted(maps.Keys(s.nodes)) }

func (s *sim) post(delay time.Duration, e simEvent) {
	s.seq++
	e.seq, e.due = s.seq, s.now.Add(delay)
	s.flight = append(s.flight, e)
}

// run lets a span of simulated time pass.
func (s *sim) run(d time.Duration) {
	end := s.now.Add(d)
	for {
		s.showViews()
		next, at := -1, end
		for i, e := range s.flight {
			if e.due.Before(at) || next >= 0 && e.due.Equal(at) && e.seq < s.flight[next].seq {
				next, at = i, e.due
			}
		}
		var waker *simNode
		for _, id := range s.ids() {
			n := s.nodes[id]
			if n.up && !n.wake.IsZero() && n.wake.Before(at) {
				waker, at = n, n.wake
			}
		}
		s.now = later(s.now, at)
		switch {
		case waker != nil:
			s.step(waker, formInput{})
		case next >= 0:
			e := s.flight[next]
			s.flight = slices.Delete(s.flight, next, next+1)
			n := s.nodes[e.to]
			if !n.up || e.life != 0 && e.life != n.life {
				continue
			}
			s.step(n, e.in)
		default:
			return
		}
	}
}

func (s *sim) showViews() {
	for again := true; again; {
		again = false
		for _, id := range s.ids() {
			n := s.nodes[id]
			if !n.up {
				continue
			}
			if v := s.viewOf(id); !reflect.DeepEqual(v, n.lastView) {
				n.lastView = v
				s.step(n, formInput{view: &v})
				again = true
			}
		}
	}
}

func (s *sim) step(n *simNode, in formInput) {
	s.seq++
	in.now, in.rnd, in.fresh = s.now, s.rnd(), fmt.Sprintf("cluster%d%s", s.seq, n.id)
	out := n.f.step(in)
	when := ""
	if n.trap != nil {
		when = n.trap(out)
	}
	if when == "" && s.crashes > 0 && (out.persist || len(out.sends) > 0) && s.rnd() < s.crashes {
		when = []string{"before", "after"}[int(s.rnd()*2)]
	}
	if when != "" {
		s.countCrash(out, when)
	}
	if when == "before" {
		s.crash(n.id)
		return
	}
	if out.persist {
		b, err := json.Marshal(n.f.st)
		if err != nil {
			panic(err)
		}
		n.disk = b
		s.check(n)
	}
	for _, l := range out.logs {
		s.logf("%s: %s %v", n.id, l.text, l.attrs)
	}
	if when == "after" {
		s.crash(n.id)
		return
	}
	s.act(n, out)
}

// countCrash counts a crash by the step at which it came.
func (s *sim) countCrash(out formOutput, when string) {
	at := map[string]bool{}
	if out.persist {
		at["persist"] = true
	}
	if out.found != nil {
		at["found"] = true
	}
	for _, m := range out.sends {
		at[string(m.msg.Kind)] = true
	}
	for what := range at {
		s.counts["crash "+when+" "+what]++
	}
}

func (s *sim) act(n *simNode, out formOutput) {
	n.wake = out.wake
	for _, m := range out.sends {
		copies := 1
		if s.rnd() < s.double {
			copies = 2
		}
		for range copies {
			if s.rnd() < s.loss || s.severed(n.id, m.to) && s.rnd() >= s.leak {
				s.counts["messages lost"]++
			} else {
				s.counts["messages sent"]++
				msg := m.msg
				if s.hold != nil && s.hold(n.id, m) {
					s.held = append(s.held, simEvent{to: m.to, from: n.id, in: formInput{msg: &msg}})
					continue
				}
				s.post(time.Millisecond+time.Duration(s.rnd()*float64(s.spread)), simEvent{to: m.to, from: n.id, in: formInput{msg: &msg}})
			}
		}
	}
	if p := out.found; p != nil {
		grants := map[string][]byte{}
		for id, r := range out.requests {
			if string(r) != "request-"+id {
				s.broken = append(s.broken, fmt.Sprintf("%s founds with request %q of %s", n.id, r, id))
			}
			grants[id] = []byte("grant-" + p.ClusterID + "-" + id)
		}
		s.post(s.callTime(), simEvent{to: n.id, life: n.life, in: formInput{found: &foundResult{id: p.ID, grants: grants}}})
	}
	if p := out.accept; p != nil {
		if want := "grant-" + p.ClusterID + "-" + n.id; string(out.grant) != want {
			s.broken = append(s.broken, fmt.Sprintf("%s accepts %q, want %q", n.id, out.grant, want))
		}
		s.post(s.callTime(), simEvent{to: n.id, life: n.life, in: formInput{taken: &acceptResult{id: p.ID}}})
	}
	if o := out.outcome; o != nil {
		s.logf("%s: %s %s", n.id, o.Kind, o.ClusterID)
		if n.cluster != "" && n.cluster != o.ClusterID {
			s.broken = append(s.broken, fmt.Sprintf("%s was in %s and enters %s", n.id, n.cluster, o.ClusterID))
		}
		n.cluster = o.ClusterID
	}
}

// check holds the invariants whenever a disk changes.
func (s *sim) check(n *simNode) {
	st := n.state()
	if st.Founding == nil || s.clusters[st.Founding.Proposal.ClusterID] != nil {
		return
	}
	p := st.Founding.Proposal
	for _, m := range p.Members {
		other := s.nodes[m].state()
		if other.Promised == nil || other.Promised.ID != p.ID {
			s.broken = append(s.broken, fmt.Sprintf("%s is founded but %s is not bound to it", p.ID, m))
		}
		for c, members := range s.clusters {
			if slices.Contains(members, m) {
				s.broken = append(s.broken, fmt.Sprintf("%s founds both %s and %s", m, c, p.ClusterID))
			}
		}
	}
	s.clusters[p.ClusterID] = p.Members
}

// summary says where each node stands.
func (s *sim) summary() string {
	var b strings.Builder
	for _, id := range s.ids() {
		n := s.nodes[id]
		st := n.state()
		what := "free"
		switch {
		case st.Outcome != nil:
			what = "founder of " + st.Outcome.Proposal.ID.String()
		case n.cluster != "":
			what = "met " + n.cluster
		case st.Promised != nil:
			what = "bound to " + st.Promised.ID.String()
		}
		if !n.up {
			what += ", down"
		}
		fmt.Fprintf(&b, "%s: %s\n", id, what)
	}
	return b.String()
}
