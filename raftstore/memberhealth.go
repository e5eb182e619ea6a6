package raftstore

import (
	"context"
	"time"

	"github.com/hashicorp/raft"
	autopilot "github.com/hashicorp/raft-autopilot"
)

// What raft-autopilot is told of the members: keeper is its ApplicationIntegration. A
// member is healthy that the ring holds for alive, that has answered the leader just
// now, and whose log is near the end of the leader's.

const (
	// votersPace is how often the leader looks at its members. It asks nobody: what they
	// have answered to Raft is all it needs.
	votersPace = time.Second
	// contactLimit is how long a healthy member may be silent. It hears the leader ten
	// times a second; on a busy machine a second has been seen to pass.
	contactLimit = 2 * time.Second
	// trailingLimit is how many entries a healthy member may be behind: as many as it
	// is fed without a look at the disk.
	trailingLimit = logCacheSize
)

var _ autopilot.ApplicationIntegration = (*keeper)(nil)

// AutopilotConfig implements autopilot.ApplicationIntegration.
func (k *keeper) AutopilotConfig() *autopilot.Config {
	return &autopilot.Config{
		LastContactThreshold: contactLimit, MaxTrailingLogs: trailingLimit,
		ServerStabilizationTime: k.voting.Rules.Stable,
	}
}

// KnownServers implements autopilot.ApplicationIntegration.
func (k *keeper) KnownServers() map[raft.ServerID]*autopilot.Server {
	out := map[raft.ServerID]*autopilot.Server{}
	for id, p := range k.voting.Peers() {
		server := &autopilot.Server{
			ID: raft.ServerID(id), Name: id, Address: raft.ServerAddress(id),
			NodeStatus: autopilot.NodeUnknown, IsLeader: id == k.store.cfg.NodeID,
		}
		switch p.State {
		case PeerAlive:
			server.NodeStatus = autopilot.NodeAlive
		case PeerDead:
			server.NodeStatus = autopilot.NodeFailed
		case PeerLeft:
			server.NodeStatus = autopilot.NodeLeft
		}
		out[server.ID] = server
	}
	return out
}

// FetchServerStats implements autopilot.ApplicationIntegration.
func (k *keeper) FetchServerStats(_ context.Context, servers map[raft.ServerID]*autopilot.Server) map[raft.ServerID]*autopilot.ServerStats {
	out := map[raft.ServerID]*autopilot.ServerStats{}
	for id, server := range servers {
		stats := &autopilot.ServerStats{LastContact: -1} // never
		if server.IsLeader {
			stats.LastContact, stats.LastIndex = 0, k.store.raft.LastIndex()
		} else if at, last := k.store.transport.heardFrom(id); !at.IsZero() {
			stats.LastContact, stats.LastIndex = time.Since(at), last
		}
		stats.LastTerm = k.store.termOf(stats.LastIndex)
		out[id] = stats
	}
	return out
}

// termOf is the term of an entry of this node's log; 0 if it does not hold it. What lies
// beyond its end on a follower is about to be cut off there.
func (s *Store) termOf(index uint64) uint64 {
	var l raft.Log
	if err := s.logs.GetLog(min(index, s.raft.LastIndex()), &l); err != nil {
		return 0
	}
	return l.Term
}

// NotifyState implements autopilot.ApplicationIntegration. One goroutine calls it.
func (k *keeper) NotifyState(state *autopilot.State) {
	select {
	case <-k.states: // not looked at yet: replace it
	default:
	}
	k.states <- state
}

// RemoveFailedServer implements autopilot.ApplicationIntegration. It is not called, since
// raft-autopilot changes nothing here.
func (k *keeper) RemoveFailedServer(*autopilot.Server) {}
