package voters

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// world is a group whose members come and go.
type world struct {
	t       *rapid.T
	rules   Rules
	now     time.Time
	members []Member
	leader  int
}

func newWorld(t *rapid.T) *world {
	w := &world{t: t, rules: usual, now: start}
	w.rules.Voters = rapid.SampledFrom([]int{1, 3, 5, 7}).Draw(t, "voters")
	n := rapid.IntRange(1, 9).Draw(t, "members")
	founders := min(n, w.rules.Voters)
	founders -= (founders + 1) % 2
	for i := range n {
		m := Member{ID: fmt.Sprintf("n%d", i), Zone: rapid.SampledFrom([]string{"", "a", "b", "c"}).Draw(t, "zone"),
			Role: NonVoter, Healthy: true, Since: start.Add(-time.Hour)}
		if i < founders {
			m.Role = Voter
		}
		w.members = append(w.members, m)
	}
	w.elect()
	return w
}

func (w *world) votes() (all, healthy int) {
	for _, m := range w.members {
		if m.Role == Voter {
			all++
			if m.Healthy {
				healthy++
			}
		}
	}
	return all, healthy
}

func (w *world) quorate() bool {
	all, healthy := w.votes()
	return healthy >= all/2+1
}

// elect makes a healthy voter the leader; false if nobody can be one.
func (w *world) elect() bool {
	if m := w.members[w.leader]; w.quorate() && m.Healthy && m.Role == Voter {
		w.members[w.leader].Leader = true
		return true
	}
	for i := range w.members {
		w.members[i].Leader = false
	}
	if !w.quorate() {
		return false
	}
	w.leader = slices.IndexFunc(w.members, func(m Member) bool { return m.Healthy && m.Role == Voter })
	w.members[w.leader].Leader = true
	return true
}

// flip makes a member fail or work.
func (w *world) flip(i int) {
	m := &w.members[i]
	m.Healthy, m.Since, m.Gone = !m.Healthy, w.now, time.Time{}
	if !m.Healthy {
		m.Gone = w.now
	}
}

// step makes the next change and checks it.
func (w *world) step() bool {
	if !w.elect() {
		return false
	}
	plan := Decide(w.now, w.rules, w.members)
	for _, m := range w.members {
		if plan.Why[m.ID] == "" {
			w.t.Fatalf("no reason for %+v", m)
		}
	}
	if plan.Change == nil {
		return false
	}
	i := slices.IndexFunc(w.members, func(m Member) bool { return m.ID == plan.Change.ID })
	before := w.members[i]
	_, spareBefore := w.spare()
	w.members = after(w.members, *plan.Change)
	w.check(*plan.Change, before, spareBefore)
	return true
}

// spare is how many more voters may be lost.
func (w *world) spare() (votes, spare int) {
	all, healthy := w.votes()
	return all, healthy - (all/2 + 1)
}

func (w *world) check(c Change, was Member, spareBefore int) {
	votes, spare := w.spare()
	switch {
	case !w.quorate():
		w.t.Fatalf("%v leaves no majority of the %d voters: %+v", &c, votes, w.members)
	case c.Action == Promote && was.Wish == NoVote, c.Action == Demote && was.Wish == Vote:
		w.t.Fatalf("%v goes against the operator's wish", &c)
	case c.Action == Promote && (!was.Healthy || was.Role != NonVoter || w.now.Sub(was.Since) < w.rules.Stable):
		w.t.Fatalf("%v of %+v", &c, was)
	case c.Action == Demote && !was.Healthy && was.Wish == Auto && w.now.Sub(was.Since) < w.rules.Dead:
		w.t.Fatalf("%v costs a vote that may only be restarting: %+v", &c, was)
	case c.Action == Demote && was.Healthy && was.Wish == Auto && spare < spareBefore && votes+1 <= w.rules.Voters:
		w.t.Fatalf("%v lets one less be lost: %+v", &c, w.members)
	case c.Action == Remove && (was.Healthy || was.Role != NonVoter):
		w.t.Fatalf("%v of %+v", &c, was)
	}
}

// settle makes changes until there is none, and checks that it ends.
func (w *world) settle() {
	for i := range 6*len(w.members) + 10 {
		if !w.step() {
			return
		}
		if i == 6*len(w.members)+9 {
			w.t.Fatalf("it does not end: %+v", w.members)
		}
	}
}

// rest checks a group in which nothing is to be done and nobody has just changed.
func (w *world) rest() {
	votes, healthy := w.votes()
	wished, able, held := 0, 0, 0
	zones := map[string]int{}
	for _, m := range w.members {
		switch {
		case m.Wish == NoVote && m.Role == Voter && w.quorateWithout(m):
			w.t.Fatalf("%s votes against the operator's wish: %+v", m.ID, w.members)
		case m.Wish == Vote && m.Role == NonVoter && m.Healthy:
			w.t.Fatalf("%s does not vote against the operator's wish: %+v", m.ID, w.members)
		case m.Wish != Auto:
			wished++
		}
		if m.Healthy && m.Role != Outside && m.Wish != NoVote {
			able++
		}
		if !m.Healthy && m.Role == Voter {
			held++
		}
		if m.Role == Voter {
			zones[m.Zone]++
		}
	}
	if wished > 0 {
		return
	}
	want := min(able, w.rules.Voters)
	if want%2 == 0 {
		want-- // of two, one may vote or both
	}
	switch {
	case votes > w.rules.Voters, votes%2 == 0 && healthy != 2, healthy < want, held > 1:
		w.t.Fatalf("%d voters, %d of them healthy, of %d that could be: %+v", votes, healthy, able, w.members)
	}
	for _, m := range w.members {
		for _, v := range w.members {
			if m.Role == NonVoter && m.Healthy && v.Role == Voter && v.Healthy && zones[v.Zone] >= zones[m.Zone]+2 {
				w.t.Fatalf("%s should vote in the place of %s: %+v", m.ID, v.ID, w.members)
			}
		}
	}
}

func (w *world) quorateWithout(without Member) bool {
	all, healthy := w.votes()
	if without.Healthy {
		healthy--
	}
	return healthy >= (all-1)/2+1
}

func TestDecideKeepsAQuorumAndConverges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		for range rapid.IntRange(1, 25).Draw(t, "events") {
			switch i := rapid.IntRange(0, len(w.members)-1).Draw(t, "member"); rapid.IntRange(0, 5).Draw(t, "event") {
			case 0, 1:
				w.flip(i)
			case 2:
				w.members[i].Wish = rapid.SampledFrom([]Wish{Auto, Auto, Vote, NoVote}).Draw(t, "wish")
			case 3:
				w.step()
			case 4:
				w.settle()
			}
			w.now = w.now.Add(time.Duration(rapid.IntRange(0, 90).Draw(t, "seconds")) * time.Second)
		}
		w.now = w.now.Add(2 * w.rules.Dead)
		w.settle()
		w.now = w.now.Add(2 * w.rules.Dead) // those let in again have been stable by then
		w.settle()
		if !w.elect() {
			return // no majority: nothing can be done
		}
		w.rest()
		for range 3 {
			w.now = w.now.Add(time.Hour)
			if w.step() {
				t.Fatalf("something changes that had settled: %+v", w.members)
			}
		}
	})
}

// A restart of one node, shorter than Rules.Dead, changes nobody's vote.
func TestARestartCostsNoVote(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		w.now = w.now.Add(time.Hour)
		w.settle()
		before := votersOf(w.members)
		i := rapid.IntRange(0, len(w.members)-1).Draw(t, "member")
		w.flip(i)
		for range rapid.IntRange(1, 59).Draw(t, "seconds") {
			w.settle()
			w.now = w.now.Add(time.Second)
		}
		w.flip(i)
		for range 120 {
			w.settle()
			w.now = w.now.Add(time.Second)
		}
		if got := votersOf(w.members); !slices.Equal(got, before) {
			t.Fatalf("%v voted before, %v after a restart of %s", before, got, w.members[i].ID)
		}
	})
}

// Whoever dies, as long as each loss is made up for before the next and one may be
// lost, there is a majority to the last two nodes.
func TestLossesOneAfterAnother(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		w.now = w.now.Add(time.Hour)
		w.settle()
		for len(w.members) >= 3 {
			var alive []int
			for i, m := range w.members {
				if m.Healthy {
					alive = append(alive, i)
				}
			}
			if len(alive) <= 2 || w.rules.Voters < 3 {
				break
			}
			w.flip(rapid.SampledFrom(alive).Draw(t, "dies"))
			if !w.elect() {
				t.Fatalf("no majority with %d alive: %+v", len(alive)-1, w.members)
			}
			for range 90 {
				w.now = w.now.Add(time.Second)
				w.settle()
			}
		}
	})
}
