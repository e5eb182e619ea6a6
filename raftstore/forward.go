package raftstore

import (
	"context"
	"errors"
	"fmt"
)

// proposeThere hands a command to the node that leads.
func (s *Store) proposeThere(ctx context.Context, leader string, command []byte) (result, error) {
	var r result
	err := s.caller.call(ctx, leader, callPropose, command, &r)
	return r, err
}

// withoutReplica tells what a node answers whose replica is in doubt.
func withoutReplica(method callMethod) bool { return method == callStatus || method == callTerm }

// handleCall answers the calls of other nodes.
func (s *Store) handleCall(ctx context.Context, method callMethod, body []byte) (any, error) {
	if err := s.err(); err != nil && !(errors.Is(err, ErrDiffers) && withoutReplica(method)) {
		return nil, fmt.Errorf("%w: %w", errNotProposed, err)
	}
	switch method {
	case callStatus:
		return s.PeerStatus(), nil
	case callDigest:
		var q digestQuestion
		if err := unmarshal(body, &q); err != nil {
			return nil, final(err)
		}
		return s.digestHere(ctx, q.Index)
	case callObject:
		var o objection
		if err := unmarshal(body, &o); err != nil {
			return nil, final(err)
		}
		s.hearObjection(o)
		return struct{}{}, nil
	case callScrub:
		s.spawn(s.scrubNow)
		return struct{}{}, nil
	case callExport:
		return flow(s.export), nil
	case callPropose:
		var command []byte
		if err := unmarshal(body, &command); err != nil {
			return nil, final(err)
		}
		if _, leads := s.leadsIn(); !leads {
			return nil, fmt.Errorf("%w: %w", errNotProposed, ErrNotLeader)
		}
		// A command that some member cannot read must not get into the log.
		if _, err := decodeCommand(command, s.cfg.commandVersion); err != nil {
			return nil, final(err)
		}
		if gate := s.fsm.current.Load().gate; command[0] > gate {
			// The proposer has seen it opened, and here that is not applied yet.
			return nil, fmt.Errorf("%w: the gate for commands of version %d is not open on the leader", errNotProposed, command[0])
		}
		return s.proposeHere(ctx, command)
	case callReadIndex:
		return s.readPointHere(ctx)
	case callTerm:
		return s.raft.CurrentTerm(), nil
	case callMember:
		var change memberChange
		if err := unmarshal(body, &change); err != nil {
			return nil, final(err)
		}
		return struct{}{}, s.changeMemberHere(ctx, change)
	}
	return nil, final(fmt.Errorf("unknown call %d", method))
}
