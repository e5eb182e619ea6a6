package voters

import (
	"cmp"
	"slices"
)

// aim marks those who are to have a vote.
func (g *group) aim() {
	voting, standby := g.those(working, failing), g.those(ready)
	var lost []*member // dead voters whose votes are the leader's to take
	held := 0          // those whose votes are not
	for _, m := range g.those(dead) {
		if m.Wish == Vote {
			m.aimed = true
			held++
		} else {
			lost = append(lost, m)
		}
	}
	wished := 0
	for _, m := range slices.Concat(voting, standby) {
		if m.Wish == Vote {
			wished++
		}
	}
	n := min(len(voting)+len(standby), max(g.rules.Voters-held, wished, 1))
	if (n+held)%2 == 0 {
		switch {
		case len(lost) > 0 && n == len(voting) && n+held < g.rules.Voters:
			latest := slices.MaxFunc(lost, func(a, b *member) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(b.ID, a.ID)) })
			latest.aimed = true
		case n == 2 && len(voting) >= 2: // one disk would be everything
		case n > max(wished, 1):
			n--
		}
	}
	for _, m := range g.spread(voting, standby, n) {
		m.aimed = true
	}
}

// spread chooses n of those who vote and those who could: as few changes as it takes,
// and then such that no zone has two votes more than another that could have one of them.
func (g *group) spread(voting, standby []*member, n int) []*member {
	chosen := &choice{zones: map[string]int{}}
	for _, m := range voting {
		chosen.add(m)
	}
	for _, m := range standby {
		if m.Wish == Vote {
			chosen.add(m)
		}
	}
	for len(chosen.members) > n {
		chosen.drop(chosen.weakest())
	}
	left := slices.DeleteFunc(slices.Concat(voting, standby), func(m *member) bool {
		return slices.Contains(chosen.members, m) || !m.Healthy
	})
	for len(chosen.members) < n && len(left) > 0 {
		best := chosen.neediest(left)
		chosen.add(best)
		left = slices.DeleteFunc(left, func(m *member) bool { return m == best })
	}
	for len(left) > 0 {
		best, worst := chosen.neediest(left), chosen.weakest()
		// The sum of the squares of the zones' votes falls with each swap, so this ends,
		// and what was chosen is chosen again.
		if worst == nil || chosen.zones[worst.Zone] < chosen.zones[best.Zone]+2 {
			break
		}
		chosen.drop(worst)
		chosen.add(best)
		left = slices.DeleteFunc(left, func(m *member) bool { return m == best })
	}
	return chosen.members
}

// choice is a set of members and how many of them each zone has.
type choice struct {
	members []*member
	zones   map[string]int
}

func (c *choice) add(m *member) {
	c.members = append(c.members, m)
	c.zones[m.Zone]++
}

func (c *choice) drop(m *member) {
	c.members = slices.DeleteFunc(c.members, func(o *member) bool { return o == m })
	c.zones[m.Zone]--
}

// weakest is who goes first: who fails, then who is of the fullest zone, then who does
// not vote yet. Nobody for whom an operator has spoken; nil if there is no other.
func (c *choice) weakest() *member {
	free := slices.DeleteFunc(slices.Clone(c.members), func(m *member) bool { return m.Wish == Vote })
	if len(free) == 0 {
		return nil
	}
	return slices.MinFunc(free, func(a, b *member) int {
		return cmp.Or(
			compareBool(a.Healthy, b.Healthy),
			cmp.Compare(c.zones[b.Zone], c.zones[a.Zone]),
			compareBool(a.Role == Voter, b.Role == Voter),
			byUse(a, b),
		)
	})
}

// neediest is who comes first: who is of the emptiest zone, then who votes already, then
// who has been stable for the longest time.
func (c *choice) neediest(left []*member) *member {
	return slices.MinFunc(left, func(a, b *member) int {
		return cmp.Or(
			cmp.Compare(c.zones[a.Zone], c.zones[b.Zone]),
			compareBool(b.Role == Voter, a.Role == Voter),
			byWish(a, b),
		)
	})
}
