package raftstore

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// Member is a replica of the store.
type Member struct {
	ID    string
	Voter bool
}

// MembersChanged returns a channel that is closed once Members may have changed after the
// call.
func (s *Store) MembersChanged() <-chan struct{} {
	s.fsm.mu.RLock()
	defer s.fsm.mu.RUnlock()
	return s.fsm.members
}

// Members returns the members that this node knows, the latest first agreed or
// still being agreed on.
func (s *Store) Members() []Member {
	var out []Member
	for _, server := range s.servers() {
		out = append(out, Member{ID: string(server.ID), Voter: server.Suffrage == raft.Voter})
	}
	return out
}

func (s *Store) servers() []raft.Server {
	f := s.raft.GetConfiguration()
	if f.Error() != nil {
		return nil
	}
	return f.Configuration().Servers
}

// configurationIndex is that of the last committed configuration that this node knows.
func (s *Store) configurationIndex() (uint64, error) {
	list, err := s.snapshots.List()
	if err != nil {
		return 0, fmt.Errorf("raftstore: list snapshots: %w", err)
	}
	index := s.fsm.configured.Load()
	if len(list) > 0 {
		index = max(index, list[0].ConfigurationIndex) // of the log that it stands for
	}
	return index, nil
}

type memberAction uint8

const (
	memberAdd     memberAction = 1
	memberPromote memberAction = 2
	memberDemote  memberAction = 3
	memberRemove  memberAction = 4
)

type memberChange struct {
	Action memberAction
	ID     string
	Knows  int // version of commands that a node knows which is added; 0: the first
	// Blank is set of a node that is added and has no replica.
	Blank bool
}

// AddNonvoter makes a node that runs this program a replica without a vote. It is
// nothing to add a member again.
func (s *Store) AddNonvoter(ctx context.Context, nodeID string) error {
	return s.changeMember(ctx, memberChange{Action: memberAdd, ID: nodeID, Knows: int(s.cfg.commandVersion)})
}

// Admit makes a node a replica without a vote that has nothing yet, and whose program knows
// commands up to a version. One that knows too little is refused. One that had a vote until now
// has lost what it promised with it, and what it acknowledged: it is taken out of the group
// first, so that no majority counts on it.
func (s *Store) Admit(ctx context.Context, nodeID string, knows int) error {
	return s.changeMember(ctx, memberChange{Action: memberAdd, ID: nodeID, Knows: knows, Blank: true})
}

// Promote gives a member a vote, adding it if it is none.
func (s *Store) Promote(ctx context.Context, nodeID string) error {
	return s.changeMember(ctx, memberChange{Action: memberPromote, ID: nodeID, Knows: int(s.cfg.commandVersion)})
}

// Demote takes a member's vote; it stays a replica.
func (s *Store) Demote(ctx context.Context, nodeID string) error {
	return s.changeMember(ctx, memberChange{Action: memberDemote, ID: nodeID})
}

// Remove ends a membership and the sessions of the node.
func (s *Store) Remove(ctx context.Context, nodeID string) error {
	if err := s.changeMember(ctx, memberChange{Action: memberRemove, ID: nodeID}); err != nil {
		return err
	}
	return s.expireSessions(ctx, nodeID)
}

// expireSessions ends the sessions of a node that is no member any more.
func (s *Store) expireSessions(ctx context.Context, nodeID string) error {
	_, _, err := s.propose(ctx, func() ([]byte, error) {
		return s.encode(&command{Kind: kindExpire, Node: nodeID})
	})
	if err != nil {
		return noQuorum(err)
	}
	return nil
}

func (s *Store) changeMember(ctx context.Context, change memberChange) error {
	if err := s.err(); err != nil {
		return err
	}
	err := s.atLeader(ctx, func(ctx context.Context, leader Leadership) error {
		if leader.Self {
			return s.changeMemberHere(ctx, change)
		}
		return s.caller.call(ctx, leader.LeaderID, callMember, change, &struct{}{})
	})
	if err != nil {
		return noQuorum(err)
	}
	return nil
}

// changeMemberHere changes the configuration as the leader. All changes may be
// repeated.
func (s *Store) changeMemberHere(ctx context.Context, change memberChange) error {
	if change.ID == "" {
		return final(fmt.Errorf("raftstore: a member without an id"))
	}
	var is *raft.Server
	for _, server := range s.servers() {
		if string(server.ID) == change.ID {
			is = &server
		}
	}
	if change.Blank && is != nil && is.Suffrage == raft.Voter {
		if err := s.changeServer(ctx, memberChange{Action: memberRemove, ID: change.ID}, is, 0); err != nil {
			return err
		}
		is = nil
	}
	if is == nil && (change.Action == memberAdd || change.Action == memberPromote) {
		done, err := s.beginAdmitting(ctx)
		if err != nil {
			return err
		}
		defer done()
		if err := s.mayAdmit(change.Knows); err != nil {
			return err
		}
	}
	return s.changeServer(ctx, change, is, 0)
}

// mayAdmit tells whether a node may be let in, by a leader that knows how the gate
// stands: it has applied all entries of earlier terms.
func (s *Store) mayAdmit(knows int) error {
	if term, leads := s.leadsIn(); !leads || s.leadership.ready() != term {
		return fmt.Errorf("%w: %w", errNotProposed, ErrNotLeader)
	}
	if err := s.Admits(max(knows, firstVersion)); err != nil {
		return final(err)
	}
	return nil
}

// changeServer has Raft change a member, which is nil or what it was until now. Only
// the configuration with index prev is changed, whatever there is if that is 0.
func (s *Store) changeServer(ctx context.Context, change memberChange, is *raft.Server, prev uint64) error {
	if change.ID == s.cfg.NodeID && (change.Action == memberDemote || change.Action == memberRemove) && is != nil {
		// A leader that takes its own vote leaves the others to an election; handed over
		// first, they wait milliseconds. The change is then made by the new leader.
		if err := s.transferLeadership(s.raft.LeadershipTransfer); err != nil {
			return fmt.Errorf("hand leadership over before changing member %s: %w", change.ID, err)
		}
		return ErrNotLeader
	}
	id, addr := raft.ServerID(change.ID), raft.ServerAddress(change.ID)
	timeout := attemptTime
	if deadline, ok := ctx.Deadline(); ok {
		timeout = max(time.Until(deadline), time.Millisecond)
	}
	var f raft.IndexFuture
	switch {
	case change.Action == memberAdd && is == nil:
		f = s.raft.AddNonvoter(id, addr, prev, timeout)
	case change.Action == memberPromote && (is == nil || is.Suffrage != raft.Voter):
		f = s.raft.AddVoter(id, addr, prev, timeout)
	case change.Action == memberDemote && is == nil:
		return final(fmt.Errorf("raftstore: node %s is not a member", change.ID))
	case change.Action == memberDemote && is.Suffrage == raft.Voter:
		f = s.raft.DemoteVoter(id, prev, timeout)
	case change.Action == memberRemove && is != nil:
		f = s.raft.RemoveServer(id, prev, timeout)
	default:
		f = barrierFuture{s.raft.Barrier(timeout)} // as wished already; an earlier try may not be committed yet
	}
	if err := await(ctx, f); err != nil {
		return fmt.Errorf("change of member %s: %w", change.ID, err)
	}
	return nil
}

// barrierFuture gives a barrier the shape of a configuration change.
type barrierFuture struct{ raft.Future }

func (barrierFuture) Index() uint64 { return 0 }
