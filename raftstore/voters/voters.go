// Package voters decides which members of a Raft group have a vote. It is pure: a
// snapshot of the members and a time give at most one change, and say of every member
// why it has its role. Who asks makes the change, and asks again.
//
// Nothing but raftstore makes the changes; node says what is known of the members.
package voters

import (
	"cmp"
	"slices"
	"time"
)

// Rules are what a cluster is set to.
type Rules struct {
	Voters int // how many vote at most; odd
	// Stable is how long a member must have been healthy before it is given a vote.
	Stable time.Duration
	// Dead is how long a voter must have failed before its vote is taken. A restart
	// must not cost a vote, so it is longer than one takes.
	Dead time.Duration
	// Forget is how long a member without a vote must have been gone before it is taken
	// out of the group; 0: it stays.
	Forget time.Duration
}

// Wish is what an operator has said about a member's vote.
type Wish uint8

// What an operator may have said. The leader never goes against it.
const (
	Auto   Wish = iota // nothing: the leader decides
	Vote               // it votes
	NoVote             // it does not vote
)

// Role is a node's part in the group.
type Role uint8

// The roles.
const (
	Outside  Role = iota // belongs to the cluster, but was taken out of the group
	NonVoter             // a replica without a vote
	Voter
)

// Member is a node as the leader sees it.
type Member struct {
	ID      string
	Zone    string // empty: it was told none; such members count as of one zone
	Role    Role
	Leader  bool
	Healthy bool      // answers and is in step; of one outside, that it answers
	Since   time.Time // since when Healthy is what it is
	Trouble string    // in words, of one that is not healthy
	Gone    time.Time // since when the ring holds it for dead or stopped; zero: it does not
	Wish    Wish
}

// Action is what is done to a member.
type Action uint8

// The actions.
const (
	Add     Action = iota + 1 // into the group, without a vote
	Promote                   // a vote is given
	Demote                    // a vote is taken
	Remove                    // out of the group
)

// Change is one step.
type Change struct {
	Action Action
	ID     string
}

// Plan is what Decide has found.
type Plan struct {
	Change *Change           // nil: all is as it should be, or must wait
	Why    map[string]string // of each member, why it has its role
}

// Decide returns the next change, if there is one, and the reasons of all roles. No
// change leaves fewer healthy voters than a majority of the voters.
//
// What it aims at is the largest odd number of voters, up to Rules.Voters, of members
// that work: an even number survives no more losses than the odd one below it. Where
// that number is even, a dead voter keeps its vote if there is one (it costs nothing,
// and helps at once when it is back), else one fewer votes. Two voters that both live
// stay two: the disk of a single one would be everything.
func Decide(now time.Time, rules Rules, members []Member) Plan {
	g := &group{now: now, rules: rules}
	for _, m := range members {
		g.members = append(g.members, &member{Member: m, standing: standingOf(now, rules, m)})
	}
	slices.SortFunc(g.members, func(a, b *member) int { return cmp.Compare(a.ID, b.ID) })
	g.aim()
	plan := Plan{Change: g.step(), Why: map[string]string{}}
	for _, m := range g.members {
		plan.Why[m.ID] = g.why(m, plan.Change)
	}
	return plan
}

// standing is a member's role together with its health.
type standing uint8

const (
	outside standing = iota
	waiting          // has no vote and could not use one yet
	ready            // has no vote and could use one
	working          // has a vote and uses it
	failing          // has a vote and fails, for less than Rules.Dead
	dead             // has a vote and has failed for longer
)

func standingOf(now time.Time, rules Rules, m Member) standing {
	lasted := now.Sub(m.Since)
	switch {
	case m.Role == Outside:
		return outside
	case m.Role == NonVoter && m.Healthy && lasted >= rules.Stable:
		return ready
	case m.Role == NonVoter:
		return waiting
	case m.Healthy:
		return working
	case lasted < rules.Dead:
		return failing
	default:
		return dead
	}
}

type member struct {
	Member
	standing standing
	aimed    bool // is to have a vote
}

type group struct {
	now     time.Time
	rules   Rules
	members []*member // by id
}

// those returns members of some standings that an operator has not taken the vote from.
func (g *group) those(standings ...standing) []*member {
	var out []*member
	for _, m := range g.members {
		if m.Wish != NoVote && slices.Contains(standings, m.standing) {
			out = append(out, m)
		}
	}
	return out
}

// step is the next change on the way to what is aimed at.
func (g *group) step() *Change {
	if c := g.voteStep(); c != nil {
		return c
	}
	for _, m := range g.members {
		switch {
		case m.Role == Outside && m.Healthy:
			return &Change{Add, m.ID}
		case m.Role == NonVoter && !m.Gone.IsZero() && g.rules.Forget > 0 && g.now.Sub(m.Gone) >= g.rules.Forget:
			return &Change{Remove, m.ID}
		}
	}
	return nil
}

func (g *group) voteStep() *Change {
	var take, give, leave []*member
	for _, m := range g.members {
		switch {
		case m.Role == Voter && !m.aimed && (m.standing == dead || m.Wish == NoVote):
			take = append(take, m)
		case m.Role == Voter && !m.aimed:
			leave = append(leave, m)
		case m.Role == NonVoter && m.aimed:
			give = append(give, m)
		}
	}
	// The dead go first: that never raises the quorum, and their replacements do.
	for _, m := range take {
		if g.safe(m, nil) {
			return &Change{Demote, m.ID}
		}
	}
	swap := len(give) > 0 && len(leave) > 0
	switch {
	case (swap || len(give) == 0) && !g.calm():
		return nil // nobody who works leaves its vote while somebody who has one fails
	case len(give) > 0 && (!swap || g.votes()%2 == 1):
		if m := slices.MinFunc(give, byWish); g.safe(nil, m) {
			return &Change{Promote, m.ID}
		}
	case len(leave) > 0:
		if m := slices.MinFunc(leave, byUse); g.safe(m, nil) {
			return &Change{Demote, m.ID}
		}
	}
	return nil
}

// calm tells whether no voter fails that may only be restarting.
func (g *group) calm() bool {
	return !slices.ContainsFunc(g.members, func(m *member) bool { return m.standing == failing })
}

func (g *group) votes() int {
	n := 0
	for _, m := range g.members {
		if m.Role == Voter {
			n++
		}
	}
	return n
}

// safe tells whether a majority of the voters works if one vote is taken or given.
func (g *group) safe(without, with *member) bool {
	votes, working := 0, 0
	for _, m := range g.members {
		if m == with || m.Role == Voter && m != without {
			votes++
			if m.Healthy {
				working++
			}
		}
	}
	return working >= votes/2+1
}

// byWish has those first for whom an operator has spoken, then the longest stable.
func byWish(a, b *member) int {
	return cmp.Or(compareBool(b.Wish == Vote, a.Wish == Vote), a.Since.Compare(b.Since), cmp.Compare(a.ID, b.ID))
}

// byUse has those first who are missed least.
func byUse(a, b *member) int {
	return cmp.Or(compareBool(a.Healthy, b.Healthy), compareBool(a.Leader, b.Leader), cmp.Compare(b.ID, a.ID))
}

// compareBool sorts false before true.
func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}
