package voters

import (
	"fmt"
	"slices"
	"time"
)

// why says why a member has its role. change is the one that is made now.
func (g *group) why(m *member, change *Change) string {
	now := change != nil && change.ID == m.ID
	switch m.Role {
	case Voter:
		return g.whyVoter(m, now)
	case NonVoter:
		return g.whyNonVoter(m, now)
	}
	switch {
	case now:
		return "is back, and is let into the group again"
	case m.Healthy:
		return "is back, and is let into the group again after the change before"
	case m.Trouble != "" && m.Gone.IsZero():
		return "is not let into the group again: " + m.Trouble
	}
	return "was gone for long, and was taken out of the group until it is back"
}

func (g *group) whyVoter(m *member, now bool) string {
	text := ""
	if !m.Healthy {
		text = fmt.Sprintf("%s for %s; ", trouble(m), Words(g.now.Sub(m.Since)))
	}
	switch {
	case m.Wish == NoVote && now:
		return text + "demoted by an operator: its vote is being taken"
	case m.Wish == NoVote:
		return text + "demoted by an operator: its vote is taken when a majority works without it"
	case m.Wish == Vote && m.standing == dead:
		return text + "promoted by an operator, so its vote is not taken (kontiki members auto lets the leader decide)"
	case m.Wish == Vote:
		return text + "promoted by an operator"
	case m.standing == failing:
		return text + fmt.Sprintf("its vote is taken if that lasts for %s", Words(g.rules.Dead))
	case m.standing == dead && m.aimed:
		return text + "keeps its vote: without it the number of voters would be even, which survives no more losses"
	case m.standing == dead && now:
		return text + "its vote is being taken"
	case m.standing == dead:
		return text + "its vote is taken when a majority works without it"
	case !m.aimed && g.crowded(m):
		return "gives its vote up: its zone has more of them than others"
	case !m.aimed:
		return "gives its vote up: " + g.whyNot()
	case g.votes() == 1:
		return "the only voter"
	}
	return fmt.Sprintf("healthy; up to %d vote", g.rules.Voters)
}

// crowded tells whether more voters are of a voter's zone than of some other member's
// that has a vote or is to have one.
func (g *group) crowded(m *member) bool {
	votes := map[string]int{}
	for _, o := range g.members {
		if o.Role == Voter {
			votes[o.Zone]++
		}
	}
	return slices.ContainsFunc(g.members, func(o *member) bool { return o.aimed && votes[o.Zone] < votes[m.Zone] })
}

func (g *group) whyNonVoter(m *member, now bool) string {
	switch {
	case m.Wish == NoVote && m.Healthy:
		return "demoted by an operator"
	case m.Wish == NoVote:
		return fmt.Sprintf("demoted by an operator; %s for %s", trouble(m), Words(g.now.Sub(m.Since)))
	case !m.Healthy:
		return fmt.Sprintf("%s for %s", trouble(m), Words(g.now.Sub(m.Since)))
	case m.standing == waiting:
		return fmt.Sprintf("not stable yet: %s of %s", Words(g.now.Sub(m.Since)), Words(g.rules.Stable))
	case now:
		return "is being given a vote"
	case m.aimed && !g.calm():
		return "is given a vote when no voter fails that may be restarting"
	case m.aimed:
		return "is given a vote after the change before"
	}
	return "standby: " + g.whyNot()
}

// whyNot says why no more vote than do, or are to.
func (g *group) whyNot() string {
	n := 0
	for _, m := range g.members {
		if m.aimed {
			n++
		}
	}
	switch {
	case n >= g.rules.Voters && n == 1:
		return "the cluster is set to one voter"
	case n >= g.rules.Voters:
		return fmt.Sprintf("%s voters are enough", number(n))
	case n == 1:
		return "with two voters the loss of either would stop writes; a third node changes that"
	default:
		return fmt.Sprintf("%s voters would survive no more losses than %s", number(n+1), number(n))
	}
}

func trouble(m *member) string {
	if m.Trouble != "" {
		return m.Trouble
	}
	return "not healthy"
}

var numbers = [...]string{"no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"}

func number(n int) string {
	if n < len(numbers) {
		return numbers[n]
	}
	return fmt.Sprint(n)
}

// Words is a length of time as people say it.
func Words(d time.Duration) string {
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", max(d, 0)/time.Second)
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", d/time.Minute)
	default:
		return fmt.Sprintf("%d h", d/time.Hour)
	}
}
