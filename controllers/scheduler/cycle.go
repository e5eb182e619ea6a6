package scheduler

import "slices"

// cycle is what the plugins worked out for pods of one kind. It stays true while
// pods are planned: what depends on one node only is remembered until that node is
// replaced, and what is counted over nodes is told of every pod that moves.
type cycle struct {
	*placed
	*planner
	profile  *profile
	filters  []prepared
	scorers  []rating
	only     []int  // the nodes the pod names; nil: all may do
	rejected string // why the pod can go nowhere, whatever the nodes are like
	seen     []seen // by node, or by place in only

	refused refusals // of the pod being planned; the memory is used again
	fit     []int    // likewise
}

// prepared is a filter that has something to say about the pod.
type prepared struct {
	filter
	plugin int         // in the profile's filters
	said   [2]*verdict // the last verdict of check, and the same with plugin in it
}

// ask is check, with the plugin in the answer.
func (f *prepared) ask(at int, n *nodeInfo) *verdict {
	v := f.check(at, n)
	if v == nil {
		return nil
	}
	if f.said[0] != v {
		marked := *v
		marked.plugin = f.plugin
		f.said = [2]*verdict{v, &marked}
	}
	return f.said[1]
}

type rating struct {
	scorer
	weight int64
}

// seen is what local filters and scorers said of a node as it was then.
type seen struct {
	info    *nodeInfo
	verdict *verdict
	score   int64
	scored  bool
}

// filter rules nodes out. What it counts over nodes is kept right by moved.
type filter struct {
	check func(at int, n *nodeInfo) *verdict // nil: it will do
	moved func(at int, pod *placed, by int)  // nil: the check looks at the node only
}

// scorer rates feasible nodes. One of one and each is set.
type scorer struct {
	// one rates by the node alone, from 0 to maxScore.
	one func(n *nodeInfo) int64
	// each rates nodes beside each other, from 0 to maxScore.
	each  func(nodes []int, scores []int64)
	moved func(at int, pod *placed, by int)
}

// filterPlugin and scorePlugin carry upstream's names. prepare looks at the pod
// once and answers nil if the plugin has nothing to say about it.
type filterPlugin struct {
	name    string
	helps   event // which events can turn its no into a yes
	hint    hint  // which of these do for a pod; nil: all
	prepare func(*cycle) *filter
}

type scorePlugin struct {
	name    string
	weight  int64
	prepare func(*cycle) *scorer
}

const maxScore = 100

func newCycle(p *planner, pod *placed, with *profile) *cycle {
	c := &cycle{placed: pod, planner: p, profile: with}
	if names, pinned := pinnedTo(pod.pod); pinned {
		c.only = []int{}
		for _, name := range names {
			if at, ok := p.index(name); ok {
				c.only = append(c.only, at)
			}
		}
		slices.Sort(c.only)
		c.seen = make([]seen, len(c.only))
	} else {
		c.seen = make([]seen, len(p.nodes))
	}
	for i, plugin := range with.filters {
		if f := plugin.prepare(c); f != nil {
			c.filters = append(c.filters, prepared{filter: *f, plugin: i})
		}
	}
	return c
}

// rate prepares the scorers when the first pod has a choice.
func (c *cycle) rate() {
	if c.scorers != nil {
		return
	}
	c.scorers = []rating{}
	for _, plugin := range c.profile.scorers {
		if s := plugin.prepare(c); s != nil {
			c.scorers = append(c.scorers, rating{*s, plugin.weight})
		}
	}
}

func (c *cycle) moved(at int, pod *placed, by int) {
	c.filtersMoved(at, pod, by)
	for i := range c.scorers {
		if c.scorers[i].moved != nil {
			c.scorers[i].moved(at, pod, by)
		}
	}
}

func (c *cycle) filtersMoved(at int, pod *placed, by int) {
	for i := range c.filters {
		if c.filters[i].moved != nil {
			c.filters[i].moved(at, pod, by)
		}
	}
}

// verdict is what the filters say of a node: with the pods nominated to it that
// are not less important, and, as those may never come, without them.
func (c *cycle) verdict(pod *placed, at int) *verdict {
	if len(c.nominated) == 0 {
		return c.check(at)
	}
	return c.withNominated(pod, at, c.nodes[at], c.check)
}

func (c *cycle) withNominated(pod *placed, at int, n *nodeInfo, alone func(int) *verdict) *verdict {
	full := n
	for _, other := range c.nominated[n.node.Name] {
		if other.priority >= pod.priority && other.pod.UID != pod.pod.UID {
			full = full.with(other)
			c.filtersMoved(at, other, 1)
		}
	}
	if full == n {
		return alone(at)
	}
	no := c.checkAs(at, full)
	for _, other := range full.pods[len(n.pods):] {
		c.filtersMoved(at, other, -1)
	}
	if no != nil {
		return no
	}
	return alone(at)
}

// check asks the filters about a node as it is, and remembers what local ones say.
func (c *cycle) check(at int) *verdict {
	s, n := c.look(at), c.nodes[at]
	for i := range c.filters {
		f := &c.filters[i]
		if s.verdict != nil && s.verdict.plugin <= f.plugin {
			break // the first no is the one that is told
		}
		if f.moved != nil {
			if no := f.ask(at, n); no != nil {
				return no
			}
		}
	}
	return s.verdict
}

// mayUse says whether the pod does not name other nodes.
func (c *cycle) mayUse(at int) bool { return c.only == nil || slices.Contains(c.only, at) }

// look is what is remembered of a node, worked out again if the node was replaced.
func (c *cycle) look(at int) *seen {
	place := at
	if c.only != nil {
		place = slices.Index(c.only, at)
	}
	s, n := &c.seen[place], c.nodes[at]
	if s.info == n {
		return s
	}
	*s = seen{info: n}
	for i := range c.filters {
		if f := &c.filters[i]; f.moved == nil && s.verdict == nil {
			s.verdict = f.ask(at, n)
		}
	}
	return s
}

// checkAs asks the filters about a node as it might be.
func (c *cycle) checkAs(at int, n *nodeInfo) *verdict {
	for i := range c.filters {
		if no := c.filters[i].ask(at, n); no != nil {
			return no
		}
	}
	return nil
}

// feasible returns indexes into the snapshot, in search order, and what ruled
// the other nodes out. In large clusters it stops at enough of them. Both are
// good until it is called again.
func (c *cycle) feasible(pod *placed) ([]int, *refusals) {
	c.fit = c.fit[:0]
	c.refused = refusals{cycle: c, nodes: c.refused.nodes[:0], why: c.refused.why[:0]}
	consider := func(at int) {
		if v := c.verdict(pod, at); v != nil {
			c.refused.add(at, v)
		} else {
			c.fit = append(c.fit, at)
		}
	}
	if c.only != nil {
		for _, at := range c.only {
			consider(at)
		}
		return c.fit, &c.refused
	}
	want := enough(len(c.nodes))
	for i := 0; i < len(c.nodes) && len(c.fit) < want; i++ {
		at := c.start + i
		if at >= len(c.nodes) {
			at -= len(c.nodes)
		}
		consider(at)
	}
	return c.fit, &c.refused
}

// best is the node with the highest weighted score. Among equals the one with the
// fewest pods wins, then the first in search order.
func (c *cycle) best(feasible []int) int {
	if len(feasible) == 1 {
		return feasible[0]
	}
	c.rate()
	totals := make([]int64, len(feasible))
	for i, at := range feasible {
		s := c.look(at)
		if !s.scored {
			s.scored = true
			for _, r := range c.scorers {
				if r.one != nil {
					s.score += r.weight * r.one(s.info)
				}
			}
		}
		totals[i] = s.score
	}
	var scores []int64
	for _, r := range c.scorers {
		if r.each == nil {
			continue
		}
		if scores == nil {
			scores = make([]int64, len(feasible))
		}
		r.each(feasible, scores)
		for i, score := range scores {
			totals[i] += r.weight * score
		}
	}
	top := 0
	for i := range totals {
		if totals[i] > totals[top] || totals[i] == totals[top] && len(c.nodes[feasible[i]].pods) < len(c.nodes[feasible[top]].pods) {
			top = i
		}
	}
	return feasible[top]
}

// normalize scales scores so that the highest becomes maxScore; reverse makes it 0.
func normalize(scores []int64, reverse bool) {
	highest := int64(0)
	for _, s := range scores {
		highest = max(highest, s)
	}
	for i, s := range scores {
		if highest > 0 {
			s = maxScore * s / highest
		}
		if reverse {
			s = maxScore - s
		}
		scores[i] = s
	}
}
