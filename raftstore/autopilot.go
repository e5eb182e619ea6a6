package raftstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/raft"
	autopilot "github.com/hashicorp/raft-autopilot"

	"kontiki/raftstore/voters"
)

// PeerState is what a node is held for by others than Raft.
type PeerState uint8

// The states of a peer.
const (
	PeerUnknown PeerState = iota // not met yet
	PeerAlive
	PeerDead
	PeerLeft // it said that it stops
)

// Peer is what the leader is told of a node that belongs to the cluster.
type Peer struct {
	State PeerState
	Since time.Time // since when this node holds it for that
	Zone  string
	Wish  voters.Wish
}

// Voting is how the leader looks after the votes.
type Voting struct {
	Rules voters.Rules
	// Peers are the nodes that belong to the cluster, by id, those too that are no
	// members. A member that is missing counts as not met.
	Peers func() map[string]Peer
}

// KeepVoters decides, as the leader of a term, who votes, and takes members that are
// gone for long out of the group and in again, until ctx ends. It returns before that
// when the term is over.
//
// raft-autopilot watches the members' health; package voters decides; each change is
// bound to the term and to the configuration that it was decided on.
func (s *Store) KeepVoters(ctx context.Context, term uint64, v Voting) error {
	k := &keeper{store: s, term: term, voting: v, states: make(chan *autopilot.State, 1), refused: map[string]refusal{}}
	pilot := autopilot.New(s.raft, k,
		autopilot.WithLogger(newRaftLogger(s.log)),
		autopilot.WithUpdateInterval(votersPace),
		autopilot.WithReconciliationDisabled()) // DESIGN.md says why
	pilot.Start(ctx)
	defer s.roles.Store(nil)
	defer func() { <-pilot.Stop() }()
	for {
		select {
		case state := <-k.states:
			err := k.tend(ctx, state)
			if errors.Is(err, ErrNotLeader) {
				return nil
			}
			k.complain(err)
		case <-ctx.Done():
			return nil
		}
	}
}

// keeper is what KeepVoters remembers within a term.
type keeper struct {
	store  *Store
	term   uint64
	voting Voting
	states chan *autopilot.State // holds the latest one that was not looked at

	refused   map[string]refusal // nodes that were not let in again
	complaint string             // logged last
}

type refusal struct {
	at  time.Time
	why string
}

// refusedFor is how long a node that was refused is let alone, so that others get their turn.
const refusedFor = 10 * time.Second

func (k *keeper) complain(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != k.complaint {
		k.store.log.Warn("a change of the members failed; it is decided anew", "err", err)
	}
	k.complaint = text
}

// tend makes changes until none is left to be made.
func (k *keeper) tend(ctx context.Context, health *autopilot.State) error {
	s := k.store
	for ctx.Err() == nil {
		// The peers are asked for after the members: whoever was removed for good before
		// that is among them no more.
		servers := s.servers()
		plan := voters.Decide(time.Now(), k.voting.Rules, k.members(servers, k.voting.Peers(), health))
		s.roles.Store(&plan.Why)
		if plan.Change == nil {
			return nil
		}
		index, err := s.configurationIndex()
		if err != nil {
			return err
		}
		if !slices.Equal(servers, s.servers()) {
			continue // the index may be that of other members
		}
		if err := k.make(ctx, *plan.Change, servers, index); err != nil {
			return fmt.Errorf("%s %s: %w", actionWords[plan.Change.Action], plan.Change.ID, err)
		}
		s.log.Info("the leader has changed the members", "change", actionWords[plan.Change.Action],
			"member", plan.Change.ID, "why", plan.Why[plan.Change.ID])
	}
	return nil
}

var actionWords = map[voters.Action]string{
	voters.Add: "let in again", voters.Promote: "promote", voters.Demote: "demote", voters.Remove: "take out",
}

var memberActions = map[voters.Action]memberAction{
	voters.Add: memberAdd, voters.Promote: memberPromote, voters.Demote: memberDemote, voters.Remove: memberRemove,
}

// make makes one change of the configuration with index prev.
func (k *keeper) make(ctx context.Context, c voters.Change, servers []raft.Server, prev uint64) error {
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	s, change := k.store, memberChange{Action: memberActions[c.Action], ID: c.ID}
	if c.Action == voters.Add {
		status, err := s.askOne(ctx, c.ID)
		if err == nil {
			var done func()
			if done, err = s.beginAdmitting(ctx); err == nil {
				defer done()
				err = s.mayAdmit(status.Knows)
			}
		}
		if err != nil {
			k.refused[c.ID] = refusal{time.Now(), err.Error()}
			return err
		}
		delete(k.refused, c.ID)
	}
	if now, leads := s.leadsIn(); !leads || now != k.term {
		return ErrNotLeader
	}
	var is *raft.Server
	for i := range servers {
		if string(servers[i].ID) == c.ID {
			is = &servers[i]
		}
	}
	if err := s.changeServer(ctx, change, is, prev); err != nil {
		return err
	}
	switch c.Action {
	case voters.Remove:
		return s.expireSessions(ctx, c.ID)
	case voters.Add:
		// An operator may have removed it for good since it was decided on. One who does so from now on finds a member.
		if _, belongs := k.voting.Peers()[c.ID]; !belongs {
			return s.changeServer(ctx, memberChange{Action: memberRemove, ID: c.ID}, &raft.Server{ID: raft.ServerID(c.ID)}, 0)
		}
	}
	return nil
}

// askOne is AskStatus for one who waits.
func (s *Store) askOne(ctx context.Context, id string) (status PeerStatus, err error) {
	done := make(chan struct{})
	s.AskStatus(id, func(got PeerStatus, failed error) {
		status, err = got, failed
		close(done)
	})
	select {
	case <-done:
		return status, err
	case <-ctx.Done():
		<-done // it is not cut short, and takes five seconds at most
		return status, err
	}
}

// members puts together what is known of the members, and of those who were.
func (k *keeper) members(servers []raft.Server, peers map[string]Peer, health *autopilot.State) []voters.Member {
	var out []voters.Member
	outside := maps.Clone(peers)
	for _, server := range servers {
		id := string(server.ID)
		delete(outside, id)
		out = append(out, k.member(server, peers[id], health.Servers[server.ID]))
	}
	for id, p := range outside {
		m := voters.Member{ID: id, Zone: p.Zone, Wish: p.Wish, Role: voters.Outside, Healthy: p.State == PeerAlive, Since: p.Since}
		if r, refused := k.refused[id]; refused && time.Since(r.at) < refusedFor {
			m.Healthy, m.Trouble = false, r.why
		}
		out = append(out, m)
	}
	return out
}

// member is one server of the configuration; seen is nil if raft-autopilot has not looked
// at it yet.
func (k *keeper) member(server raft.Server, p Peer, seen *autopilot.ServerState) voters.Member {
	m := voters.Member{ID: string(server.ID), Zone: p.Zone, Wish: p.Wish, Role: voters.NonVoter, Leader: string(server.ID) == k.store.cfg.NodeID}
	if server.Suffrage == raft.Voter {
		m.Role = voters.Voter
	}
	if seen == nil {
		m.Since, m.Trouble = time.Now(), "not looked at yet"
		return m
	}
	m.Healthy, m.Since = seen.Health.Healthy, seen.Health.StableSince
	switch {
	case p.State == PeerDead || p.State == PeerLeft:
		m.Gone = p.Since
		if !m.Healthy && p.Since.Before(m.Since) {
			m.Since = p.Since // longer than this node leads
		}
	case p.State == PeerUnknown && !m.Healthy:
		m.Gone = m.Since // nobody whom this node can ask has met it
	}
	if !m.Healthy {
		m.Trouble = k.trouble(p, seen)
	}
	return m
}

func (k *keeper) trouble(p Peer, seen *autopilot.ServerState) string {
	switch last := k.store.raft.LastIndex(); {
	case p.State == PeerDead:
		return "dead"
	case p.State == PeerLeft:
		return "stopped"
	case p.State == PeerUnknown:
		return "not met in the ring"
	case seen.Stats.LastContact < 0 || seen.Stats.LastContact > contactLimit:
		return "no answer to the leader"
	case seen.Stats.LastIndex < last:
		return fmt.Sprintf("catching up (%d entries behind)", last-seen.Stats.LastIndex)
	default:
		return "not in step with the leader's term"
	}
}
