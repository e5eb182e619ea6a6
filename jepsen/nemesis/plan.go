package nemesis

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// mix stands for all faults, drawn for each round; sometimes two at a time.
const mix = "mix"

// Round is what is done to a cluster at a time: some quiet, then faults that begin and
// end together.
type Round struct {
	Quiet  time.Duration
	Lasts  time.Duration
	Faults []Draw
}

// Draw is a fault with what chance says of it. It names no host, since who leads is not
// known before.
type Draw struct {
	Kind   string
	Leader bool     // it strikes the leader first
	Share  float64  // of something, 0 to 1: what depends on the kind
	Order  []uint64 // one number a host: those with the least are struck first
}

// Plan draws rounds. The same seed draws the same ones.
type Plan struct {
	chance *rand.Rand
	kinds  []string
	nodes  int
}

// NewPlan draws from the faults that are named.
func NewPlan(seed uint64, kinds []string, nodes int) (*Plan, error) {
	for i, kind := range kinds {
		if kind != mix && !slices.Contains(Names(), kind) {
			return nil, fmt.Errorf("there is no nemesis %q; there are %s, and %s", kind, strings.Join(Names(), ", "), mix)
		}
		if slices.Contains(kinds[:i], kind) {
			return nil, fmt.Errorf("nemesis %s is named twice", kind)
		}
	}
	return &Plan{chance: rand.New(rand.NewPCG(seed, 1)), kinds: kinds, nodes: nodes}, nil
}

// Empty tells whether there is nothing to draw from.
func (p *Plan) Empty() bool { return len(p.kinds) == 0 }

// Next draws a round.
func (p *Plan) Next() Round {
	round := Round{
		Quiet: time.Second + p.spread(2*time.Second),
		Lasts: 3*time.Second + p.spread(4*time.Second),
	}
	kind := p.kinds[p.chance.IntN(len(p.kinds))]
	if kind != mix {
		round.Faults = []Draw{p.draw(kind)}
		return round
	}
	first := p.draw(Names()[p.chance.IntN(len(Names()))])
	round.Faults = []Draw{first}
	second := p.draw(Names()[p.chance.IntN(len(Names()))])
	if p.chance.IntN(3) == 0 && compatible(first.Kind, second.Kind) {
		round.Faults = append(round.Faults, second)
	}
	return round
}

// compatible tells whether two faults may be played at a time. What takes a disk away
// is played alone: with a second disk out of reach, more than a minority would be.
func compatible(a, b string) bool { return a != b && a != "wipe" && b != "wipe" }

func (p *Plan) draw(kind string) Draw {
	d := Draw{Kind: kind, Leader: p.chance.IntN(2) == 0, Share: p.chance.Float64()}
	for range p.nodes {
		d.Order = append(d.Order, p.chance.Uint64())
	}
	return d
}

func (p *Plan) spread(most time.Duration) time.Duration {
	return time.Duration(p.chance.Int64N(int64(most)))
}

// targets are whom a draw strikes when it is known who leads: host names in the order in
// which they are struck.
func (d Draw) targets(hosts []string, leader string) []string {
	order := slices.Clone(hosts)
	slices.SortStableFunc(order, func(a, b string) int {
		switch x, y := d.rank(hosts, a, leader), d.rank(hosts, b, leader); {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	})
	return order
}

func (d Draw) rank(hosts []string, host, leader string) uint64 {
	if d.Leader && host == leader {
		return 0
	}
	return d.Order[slices.Index(hosts, host)%len(d.Order)] | 1
}

// some are as many of the hosts as the share says: mostly one, now and then a minority,
// seldom all.
func (d Draw) some(hosts []string) []string {
	switch {
	case d.Share < 0.75:
		return hosts[:1]
	case d.Share < 0.95:
		return hosts[:max(1, (len(hosts)-1)/2)]
	}
	return hosts
}
