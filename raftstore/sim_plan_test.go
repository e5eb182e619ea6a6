package raftstore

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"
)

// simPlan says all of a schedule that is decided before it runs: a pure function of
// its seed, and a text that can be written by hand. "leader", "follower" and "others"
// are found when a step comes.
type simPlan struct {
	Seed       uint64
	Voters     int
	Nonvoters  int
	Spares     int // nodes that run and are no members
	Trailing   int // log entries kept behind a snapshot; more than can be uncommitted, see DESIGN.md
	EventBytes int
	EventAge   time.Duration
	Stopped    string // the node whose clock hardly runs: it believes its leader, or itself, for long
	Clients    int
	Pause      time.Duration // of a client between two operations, on average
	Length     time.Duration
	Steps      []simStep
}

// simStep is one fault, or the end of one.
type simStep struct {
	At    time.Duration
	Do    string
	Node  string
	From  []string // of a cut
	To    []string
	How   string
	Count int
	For   time.Duration
}

func simNodeID(i int) string { return fmt.Sprintf("n%d", i) }

func (p *simPlan) nodes() (ids []string) {
	for i := range p.Voters + p.Nonvoters + p.Spares {
		ids = append(ids, simNodeID(i))
	}
	return ids
}

// newSimPlan makes the schedule of a seed.
func newSimPlan(seed uint64) *simPlan {
	r := rand.New(rand.NewPCG(seed, 0x6b6f6e74696b69))
	p := &simPlan{
		Seed: seed, Voters: 3, Nonvoters: r.IntN(2), Spares: r.IntN(2),
		Trailing: 20 + r.IntN(30), EventBytes: 15_000 << r.IntN(4), EventAge: []time.Duration{time.Second, 3 * time.Second, time.Minute}[r.IntN(3)],
		Clients: 8, Pause: 80 * time.Millisecond, Length: 7 * time.Second,
	}
	if r.IntN(3) == 0 {
		p.Voters, p.Length = 5, 5*time.Second
	}
	if r.IntN(3) == 0 {
		p.Stopped = simNodeID(r.IntN(p.Voters))
	}
	d := &simDraw{r, p}
	kinds := slices.Clone(simEpisodes)
	r.Shuffle(len(kinds), func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
	kinds = kinds[:2+r.IntN(3)]
	if p.Stopped != "" {
		kinds = append(kinds, simEpisode{"stale leader", (*simDraw).staleLeader})
	}
	for at := 300 * time.Millisecond; at < p.Length-time.Second; at += d.span(200, 1200) {
		kinds[r.IntN(len(kinds))].draw(d, at)
	}
	(&simDraw{rand.New(rand.NewPCG(seed, 0x76657273696f6e)), p}).rolling()
	slices.SortStableFunc(p.Steps, func(a, b simStep) int { return int(a.At - b.At) })
	return p
}

// rolling brings the nodes to a newer program in some schedules, one after the other among all
// that happens; some go back before the last one is new.
func (d *simDraw) rolling() {
	if d.IntN(4) > 0 {
		return
	}
	ids := d.shuffled()
	// The gate waits for the last one, if that is a member all the while: only then may others go back.
	last := slices.IndexFunc(ids, func(id string) bool { return slices.Contains(d.p.nodes()[:d.p.Voters], id) })
	ids[last], ids[len(ids)-1] = ids[len(ids)-1], ids[last]
	mayGoBack := !slices.ContainsFunc(d.p.Steps, func(s simStep) bool { return s.Do == "remove" })
	pace, at := 1+int(d.p.Length/time.Millisecond)/len(ids)*2/3, 200*time.Millisecond
	for i, id := range ids {
		at += d.span(0, pace)
		d.add(at, simStep{Do: "upgrade", Node: id})
		if i < len(ids)-1 && mayGoBack && d.IntN(3) == 0 {
			d.add(at+d.span(50, 600), simStep{Do: "downgrade", Node: id})
			at += d.span(600, 900)
			d.add(at, simStep{Do: "upgrade", Node: id})
		}
	}
}

// upgrades tells whether all nodes run the newer program at the end.
func (p *simPlan) upgrades() bool {
	return slices.ContainsFunc(p.Steps, func(s simStep) bool { return s.Do == "upgrade" })
}

// simDraw draws episodes: some steps that belong together.
type simDraw struct {
	*rand.Rand
	p *simPlan
}

type simEpisode struct {
	name string
	draw func(*simDraw, time.Duration)
}

var simEpisodes = []simEpisode{
	{"partition", (*simDraw).partition}, {"crash", (*simDraw).crash}, {"power cut", (*simDraw).powerCut},
	{"crash at a write", (*simDraw).crashAtWrite}, {"pause", (*simDraw).pause}, {"members", (*simDraw).members},
	{"snapshots", (*simDraw).snapshots}, {"compaction", (*simDraw).compaction}, {"clock", (*simDraw).clock},
	{"disk", (*simDraw).disk}, {"flaky streams", (*simDraw).flaky}, {"transfer", (*simDraw).transfer},
	{"stop", (*simDraw).stop}, {"slow network", (*simDraw).far},
	{"votes", (*simDraw).votes}, {"votes", (*simDraw).votes}, // what they find is hard to find
}

// span is a time of so many milliseconds.
func (d *simDraw) span(least, most int) time.Duration {
	return time.Duration(least+d.IntN(most-least)) * time.Millisecond
}

func (d *simDraw) add(at time.Duration, s simStep) {
	s.At = at.Round(time.Millisecond)
	d.p.Steps = append(d.p.Steps, s)
}

// node draws a node: the leader as often as all others together.
func (d *simDraw) node() string {
	if d.IntN(2) == 0 {
		return "leader"
	}
	ids := d.p.nodes()
	return ids[d.IntN(len(ids))]
}

func (d *simDraw) oneOf(of ...string) string { return of[d.IntN(len(of))] }

func (d *simDraw) shuffled() []string {
	ids := d.p.nodes()
	d.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	return ids
}

func (d *simDraw) partition(at time.Duration) {
	how, ids := d.oneOf("drop", "drop", "reject"), d.shuffled()
	half := len(ids) / 2
	both := func(at time.Duration, a, b []string) {
		d.add(at, simStep{Do: "cut", From: a, To: b, How: how})
		d.add(at, simStep{Do: "cut", From: b, To: a, How: how})
	}
	end := at + d.span(300, 1500)
	switch d.oneOf("halves", "leader", "one-way", "flapping", "bridge", "ring") {
	case "halves":
		both(at, ids[:half], ids[half:])
	case "leader":
		both(at, []string{"leader"}, []string{"others"})
	case "one-way":
		a, b := []string{d.node()}, []string{"others"}
		if d.IntN(2) == 0 {
			a, b = b, a
		}
		d.add(at, simStep{Do: "cut", From: a, To: b, How: how})
	case "flapping":
		a, b := []string{d.node()}, []string{"others"}
		for ; at < end; at += d.span(50, 350) {
			both(at, a, b)
			at += d.span(50, 350)
			d.add(at, simStep{Do: "heal"})
		}
	case "bridge": // the first half and the second meet at one node alone
		both(at, ids[:half], ids[half+1:])
	case "ring": // each reaches its neighbours
		for i := range ids {
			for j := range i - 1 {
				if i-j < len(ids)-1 {
					both(at, ids[i:i+1], ids[j:j+1])
				}
			}
		}
	}
	d.add(end, simStep{Do: "heal"})
}

func (d *simDraw) crash(at time.Duration) {
	id := d.node()
	d.add(at, simStep{Do: "crash", Node: id, How: d.oneOf("kill", "power")})
	if d.IntN(4) == 0 {
		d.add(at+d.span(0, 300), simStep{Do: "crash", Node: d.node(), How: d.oneOf("kill", "power")})
	}
	d.add(at+d.span(20, 1000), simStep{Do: "start", Node: "all"})
}

func (d *simDraw) powerCut(at time.Duration) {
	d.add(at, simStep{Do: "crash", Node: "all", How: "power"})
	for _, id := range d.shuffled() {
		d.add(at+d.span(10, 600), simStep{Do: "start", Node: id})
	}
}

func (d *simDraw) crashAtWrite(at time.Duration) {
	d.add(at, simStep{Do: "trap", Node: d.node(), How: d.oneOf("log", "vote", "snapshot", "any") + "-" + d.oneOf("before", "torn", "after", "told"),
		Count: 1 + d.IntN(5), For: d.span(10, 600)})
	if d.IntN(2) == 0 {
		d.add(at+d.span(1, 50), simStep{Do: "snapshot", Node: "all"})
	}
}

func (d *simDraw) pause(at time.Duration) {
	id := d.node()
	d.add(at, simStep{Do: "pause", Node: id})
	d.add(at+d.span(100, 1500), simStep{Do: "resume"})
}

func (d *simDraw) members(at time.Duration) {
	id := simNodeID(d.IntN(d.p.Voters + d.p.Nonvoters + d.p.Spares))
	if d.p.Spares > 0 && d.IntN(2) == 0 {
		id = simNodeID(d.p.Voters + d.p.Nonvoters)
	}
	for _, do := range [][]string{{"add", "promote", "demote", "remove"}, {"promote", "remove"}, {"demote", "promote"}, {"remove", "add", "promote"}}[d.IntN(4)] {
		d.add(at, simStep{Do: do, Node: id})
		at += d.span(50, 800)
	}
	if i, _ := strconv.Atoi(id[1:]); i < d.p.Voters {
		d.add(at, simStep{Do: "promote", Node: id})
	}
}

func (d *simDraw) snapshots(at time.Duration) {
	for end := at + d.span(200, 1500); at < end; at += d.span(20, 200) {
		d.add(at, simStep{Do: "snapshot", Node: d.oneOf("all", d.node())})
	}
}

func (d *simDraw) compaction(at time.Duration) {
	d.add(at, simStep{Do: "compact", Count: d.IntN(40)})
}

func (d *simDraw) clock(at time.Duration) {
	d.add(at, simStep{Do: "clock", Node: d.node(), For: d.span(-simClockMost, simClockMost)})
}

// simClockMost is by how many milliseconds a clock is wrong at most.
const simClockMost = 1500

func (d *simDraw) disk(at time.Duration) {
	d.add(at, simStep{Do: "disk", Node: d.oneOf("all", d.node(), d.node()), How: d.oneOf("slow", "full", "hang")})
	d.add(at+d.span(100, 1500), simStep{Do: "disk", Node: "all", How: "well"})
}

func (d *simDraw) flaky(at time.Duration) {
	d.add(at, simStep{Do: "flaky", Count: 1 + d.IntN(10)})
	d.add(at+d.span(300, 2000), simStep{Do: "flaky"})
}

// simNear is the most that a message takes on a network that is well.
const simNear = 2 * time.Millisecond

func (d *simDraw) far(at time.Duration) {
	d.add(at, simStep{Do: "far", For: d.span(5, 120)})
	d.add(at+d.span(300, 1500), simStep{Do: "far", For: simNear})
}

func (d *simDraw) transfer(at time.Duration) {
	d.add(at, simStep{Do: "transfer", Node: simNodeID(d.IntN(d.p.Voters))})
}

func (d *simDraw) stop(at time.Duration) {
	d.add(at, simStep{Do: "stop", Node: d.node()})
	d.add(at+d.span(50, 800), simStep{Do: "start", Node: "all"})
}

// votes has a voter crash when it has voted, and be back before it knows of the winner,
// or after that one has given up; the others are two halves that do not hear each other.
func (d *simDraw) votes(at time.Duration) {
	ids := slices.DeleteFunc(d.shuffled(), func(id string) bool { return !slices.Contains(d.p.nodes()[:d.p.Voters], id) })
	voter := ids[0]
	half := 1 + (len(ids)-1)/2
	for _, s := range [][2][]string{{ids[1:half], ids[half:]}, {ids[half:], ids[1:half]}} {
		d.add(at, simStep{Do: "cut", From: s[0], To: s[1], How: "drop"})
	}
	for range 2 {
		d.add(at, simStep{Do: "crash", Node: voter, How: "kill"})
		at += d.span(200, 350)
		away := d.span(2, 30)
		if d.IntN(4) > 0 {
			away = d.span(220, 600)
		}
		d.add(at, simStep{Do: "trap", Node: voter, How: "vote-told", Count: 1, For: away})
		d.add(at, simStep{Do: "start", Node: voter})
		at += d.span(600, 1200)
	}
	d.add(at, simStep{Do: "heal"})
}

// staleLeader has the node whose clock hardly runs lead, and the others go on without it.
func (d *simDraw) staleLeader(at time.Duration) {
	id := d.p.Stopped
	d.add(at, simStep{Do: "transfer", Node: id})
	d.add(at, simStep{Do: "far", For: d.span(2, 30)})
	at += d.span(100, 300)
	d.add(at+d.span(0, 200), simStep{Do: "far", For: simNear})
	if d.IntN(3) > 0 {
		d.add(at, simStep{Do: "pause", Node: id})
		d.add(at+d.span(700, 1500), simStep{Do: "resume"})
		return
	}
	a, b := []string{id}, []string{"others"}
	d.add(at, simStep{Do: "cut", From: a, To: b, How: "drop"})
	if d.IntN(2) == 0 {
		d.add(at, simStep{Do: "cut", From: b, To: a, How: "drop"})
	}
	d.add(at+d.span(700, 1500), simStep{Do: "heal"})
}

func (p *simPlan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "plan seed=%d voters=%d nonvoters=%d spares=%d trailing=%d event-bytes=%d event-age=%v stopped=%s clients=%d pause=%v length=%v\n",
		p.Seed, p.Voters, p.Nonvoters, p.Spares, p.Trailing, p.EventBytes, p.EventAge, p.Stopped, p.Clients, p.Pause, p.Length)
	for _, s := range p.Steps {
		fmt.Fprintln(&b, s)
	}
	return b.String()
}

func (s simStep) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v %s", s.At, s.Do)
	for _, f := range []struct{ key, value string }{
		{"node", s.Node}, {"from", strings.Join(s.From, ",")}, {"to", strings.Join(s.To, ",")}, {"how", s.How},
	} {
		if f.value != "" {
			fmt.Fprintf(&b, " %s=%s", f.key, f.value)
		}
	}
	if s.Count != 0 {
		fmt.Fprintf(&b, " count=%d", s.Count)
	}
	if s.For != 0 {
		fmt.Fprintf(&b, " for=%v", s.For)
	}
	return b.String()
}

// parseSimPlan reads what String writes; empty lines and those that begin with # are
// passed over.
func parseSimPlan(text string) (*simPlan, error) {
	p := new(simPlan)
	lines := bufio.NewScanner(strings.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		words := strings.Fields(lines.Text())
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		var err error
		if words[0] == "plan" {
			err = p.set(words[1:])
		} else {
			err = p.step(words)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
	}
	return p, nil
}

func (p *simPlan) set(words []string) error {
	for _, word := range words {
		key, value, _ := strings.Cut(word, "=")
		var err error
		switch key {
		case "seed":
			p.Seed, err = strconv.ParseUint(value, 10, 64)
		case "stopped":
			p.Stopped = value
		case "event-age", "pause", "length":
			err = parseInto(map[string]*time.Duration{"event-age": &p.EventAge, "pause": &p.Pause, "length": &p.Length}[key], value, time.ParseDuration)
		case "voters", "nonvoters", "spares", "trailing", "event-bytes", "clients":
			err = parseInto(map[string]*int{"voters": &p.Voters, "nonvoters": &p.Nonvoters, "spares": &p.Spares, "trailing": &p.Trailing,
				"event-bytes": &p.EventBytes, "clients": &p.Clients}[key], value, strconv.Atoi)
		default:
			err = fmt.Errorf("a plan has no %q", key)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *simPlan) step(words []string) error {
	if len(words) < 2 {
		return fmt.Errorf("a step is a time and what to do, not %q", words)
	}
	s := simStep{Do: words[1]}
	if err := parseInto(&s.At, words[0], time.ParseDuration); err != nil {
		return err
	}
	for _, word := range words[2:] {
		key, value, _ := strings.Cut(word, "=")
		var err error
		switch key {
		case "node":
			s.Node = value
		case "from":
			s.From = strings.Split(value, ",")
		case "to":
			s.To = strings.Split(value, ",")
		case "how":
			s.How = value
		case "count":
			err = parseInto(&s.Count, value, strconv.Atoi)
		case "for":
			err = parseInto(&s.For, value, time.ParseDuration)
		default:
			err = fmt.Errorf("a step has no %q", key)
		}
		if err != nil {
			return err
		}
	}
	p.Steps = append(p.Steps, s)
	return nil
}

func parseInto[T any](field *T, text string, parse func(string) (T, error)) error {
	value, err := parse(text)
	*field = value
	return err
}
