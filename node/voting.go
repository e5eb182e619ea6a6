package node

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"kontiki/gossip"
	"kontiki/raftstore"
	"kontiki/raftstore/voters"
)

// Voting is when the leader gives and takes votes. The leader's word counts: say the same
// everywhere.
type Voting struct {
	// Stable is how long a member must have been healthy before it is given a vote; 10 s
	// when 0. It keeps votes from those that come and go.
	Stable time.Duration
	// Dead is how long a voter must have failed before its vote is taken; a minute when 0.
	// That is longer than a restart and than the reboot of a small machine, and short
	// beside the time until another machine fails. Every member holds all data, so a
	// vote that was taken too early costs nothing but being given back.
	Dead time.Duration
	// Forget is how long a member must be gone before it is taken out of the Raft group,
	// which it enters again by itself when it is back; a day when 0, never if negative.
	// Until then the leader tries to reach it, and an upgrade waits for it.
	Forget time.Duration
}

const (
	defaultStable = 10 * time.Second
	defaultDead   = time.Minute
	defaultForget = 24 * time.Hour
)

func (v Voting) withDefaults() (Voting, error) {
	v.Stable, v.Dead, v.Forget = cmp.Or(v.Stable, defaultStable), cmp.Or(v.Dead, defaultDead), cmp.Or(v.Forget, defaultForget)
	switch {
	case v.Stable < 0 || v.Dead < 0:
		return v, fmt.Errorf("votes are given after %v and taken after %v: neither can be negative (--stable-voter-after, --dead-voter-after)", v.Stable, v.Dead)
	case v.Forget > 0 && v.Forget < v.Dead:
		return v, fmt.Errorf("members leave the group after %v, before their votes are taken after %v: the first must not be the shorter (--dead-member-after, --dead-voter-after)", v.Forget, v.Dead)
	}
	return v, nil
}

// votesPrefix is where the store keeps what operators said about votes: + node id, a vote.
const votesPrefix = "/kontiki/votes/"

// vote is an operator's word about a node's vote, which the leader does not go against.
type vote struct {
	Votes bool      `json:"votes"`
	Time  time.Time `json:"time"`
}

// wishOf is what an operator said about a node's vote. A record that cannot be read is
// none: the leader decides.
func wishOf(view raftstore.View, id string) voters.Wish {
	kv, found := view.Get(votesPrefix + id)
	var v vote
	switch {
	case !found || json.Unmarshal(kv.Value, &v) != nil:
		return voters.Auto
	case v.Votes:
		return voters.Vote
	default:
		return voters.NoVote
	}
}

// errMemberGone is returned for a wish about a node that is removed meanwhile.
var errMemberGone = errors.New("the node has just been removed")

// wish records an operator's word about a member's vote; nil takes it back.
func (n *node) wish(ctx context.Context, id string, v *vote) error {
	op := raftstore.Op{Kind: raftstore.OpDelete, Key: votesPrefix + id}
	if v != nil {
		op.Kind, op.Value = raftstore.OpPut, encodeRecord(v)
	}
	res, err := n.store.Apply(ctx, raftstore.Txn{
		Compares: []raftstore.Compare{{Key: removedPrefix + id}},
		Ops:      []raftstore.Op{op},
	})
	switch {
	case err != nil:
		return fmt.Errorf("record the wish: %w", err)
	case !res.Succeeded:
		return errMemberGone
	}
	return nil
}

// promote and demote give and take a member's vote, and say that it is to stay so. The
// wish is recorded first: the leader carries out what is cut off here.
func (n *node) promote(ctx context.Context, ref string) (string, error) {
	id, err := n.findMember(ref)
	if err != nil {
		return "", err
	}
	if !slices.ContainsFunc(n.store.Members(), func(m raftstore.Member) bool { return m.ID == id }) {
		return "", fmt.Errorf("%s is %s: it can be given a vote then", ref, n.outOfGroup(id))
	}
	ids := append(votersOf(n.store.Members(), id), id)
	if err := checkVotes("giving "+ref+" a vote", ids, n.alive); err != nil {
		return "", err
	}
	if err := n.wish(ctx, id, &vote{true, n.now().UTC().Truncate(time.Second)}); err != nil {
		return "", err
	}
	if err := n.store.Promote(ctx, id); err != nil {
		return "", err
	}
	return said("%s votes now", ref, len(ids)), nil
}

func (n *node) demote(ctx context.Context, ref string) (string, error) {
	id, err := n.findMember(ref)
	if err != nil {
		return "", err
	}
	if !slices.ContainsFunc(n.store.Members(), func(m raftstore.Member) bool { return m.ID == id }) {
		return "", fmt.Errorf("%s is %s: it has no vote", ref, n.outOfGroup(id))
	}
	ids := votersOf(n.store.Members(), id)
	if err := checkVotes("taking the vote of "+ref, ids, n.alive); err != nil {
		return "", err
	}
	if err := n.wish(ctx, id, &vote{false, n.now().UTC().Truncate(time.Second)}); err != nil {
		return "", err
	}
	if err := n.store.Demote(ctx, id); err != nil {
		return "", err
	}
	return said("%s votes no more; it stays a replica", ref, len(ids)), nil
}

// outOfGroup says why a node that has a name is not in the Raft group.
func (n *node) outOfGroup(id string) string {
	if leftBehind(n.store.View(), n.store.Members(), n.charter.Epoch)[id] {
		return "lost since the cluster was recovered, until it is let in anew"
	}
	return "away, and was taken out of the Raft group until it is back"
}

// automatic takes an operator's word about a member's vote back.
func (n *node) automatic(ctx context.Context, ref string) (string, error) {
	id, err := n.findMember(ref)
	if err != nil {
		return "", err
	}
	if err := n.wish(ctx, id, nil); err != nil {
		return "", err
	}
	return fmt.Sprintf("the leader decides again whether %s votes", ref), nil
}

func said(what, ref string, voters int) string {
	s := fmt.Sprintf(what+"; the cluster has %d voter(s)", ref, voters)
	if voters%2 == 0 {
		s += fmt.Sprintf(", which survive no more losses than %d would; the leader makes that odd where it can", voters-1)
	}
	return s + fmt.Sprintf(". That stays so until you say otherwise; kontiki members auto %s lets the leader decide again", ref)
}

// keepVoters looks after the votes while this node leads.
func (n *node) keepVoters(ctx context.Context, term uint64) error {
	return n.store.KeepVoters(ctx, term, raftstore.Voting{
		Rules: voters.Rules{
			Voters: n.charter.Settings.Voters,
			Stable: n.cfg.Voting.Stable, Dead: n.cfg.Voting.Dead, Forget: max(n.cfg.Voting.Forget, 0),
		},
		Peers: func() map[string]raftstore.Peer {
			return peersOf(n.store.View(), n.store.Members(), n.ring.Members(), n.charter.ClusterID)
		},
	})
}

// peersOf are the nodes that belong to the cluster: its members, and those that have a
// name in it. Nobody is one of them because the ring says so, and nobody whom an operator
// removed.
func peersOf(view raftstore.View, members []raftstore.Member, ring []gossip.Member, cluster string) map[string]raftstore.Peer {
	out := map[string]raftstore.Peer{}
	removed := removedIDs(view)
	add := func(id string) {
		if id != "" && !slices.Contains(removed, id) {
			out[id] = raftstore.Peer{Wish: wishOf(view, id)}
		}
	}
	for _, m := range members {
		add(m.ID)
	}
	for id := range names(view) {
		add(id)
	}
	for _, m := range ring {
		p, known := out[m.ID]
		if !known || m.ClusterID != cluster && m.ClusterID != "" { // empty: it has not told yet, or died before it could
			continue
		}
		p.State, p.Since, p.Zone = peerState(m.State), m.Since, m.Zone
		out[m.ID] = p
	}
	return out
}

func peerState(s gossip.State) raftstore.PeerState {
	switch s {
	case gossip.StateAlive:
		return raftstore.PeerAlive
	case gossip.StateDead:
		return raftstore.PeerDead
	case gossip.StateLeft:
		return raftstore.PeerLeft
	default:
		return raftstore.PeerUnknown
	}
}

// Commands tells which version of the log's commands is in use.
type Commands struct {
	Version int `json:"version"` // what is written, and every member must know
	Knows   int `json:"knows"`   // what this node's program knows
	Needs   int `json:"-"`       // what some member has seen agreed on; this one may be behind
	// Waits are the members that keep a later version from being used, with the reason.
	Waits []string `json:"waits,omitempty"`
}

// commandsOf puts the leader's word about the versions into words.
func commandsOf(own raftstore.Status, leader raftstore.PeerStatus, named map[string]string) Commands {
	c := Commands{Version: own.Gate.Version, Knows: own.Knows}
	for _, w := range leader.Gate.Waits {
		name := cmp.Or(named[w.ID], w.ID)
		if w.Knows == 0 {
			c.Waits = append(c.Waits, name+" (does not answer; start it with the new program, or remove it)")
		} else {
			c.Waits = append(c.Waits, fmt.Sprintf("%s (its program knows version %d)", name, w.Knows))
		}
	}
	return c
}

// String is what an operator reads of it.
func (c Commands) String() string {
	s := fmt.Sprintf("version %d of the log's commands is in use", c.Version)
	if c.Knows > c.Version {
		s += fmt.Sprintf("; this node's program knows %d", c.Knows)
	}
	if len(c.Waits) > 0 {
		s += ", and a later one waits for " + strings.Join(c.Waits, ", ")
	}
	return s
}
