package gossip

import (
	"net/netip"
	"time"
)

// State says what the ring holds a member for.
type State string

// The states of a member.
const (
	// StateAlive is a member that answers, or whose silence is not yet proven.
	StateAlive State = "alive"
	// StateUnknown is a member that is remembered from an earlier process of this
	// node, or from others, and was not met yet. It becomes alive or, after
	// Tuning.Absent, dead.
	StateUnknown State = "unknown"
	// StateDead is a member that nobody could reach.
	StateDead State = "dead"
	// StateLeft is a member that said that it stops.
	StateLeft State = "left"
)

// Member is a node as the ring knows it. A member that is away keeps its last
// known name, address and ports.
type Member struct {
	ID          string
	Name        string
	Addr        netip.Addr
	ClusterPort uint16
	ClusterID   string // empty for a node that belongs to no cluster yet
	Epoch       string // of the cluster, see Meta
	State       State
	Since       time.Time // when this node learned of State
	Incarnation uint64    // grows with each life of the node's process and each change of its address
	Zone        string
	Version     string
	KeyStep     uint64 // Keys.Step of the member, as it said last; 0 of one that was not met
	Self        bool
}

// allegiance is the cluster and epoch that a node belongs to, as one word: nodes are
// fellows if they have the same. Empty for a node that belongs to no cluster yet.
func allegiance(clusterID, epoch string) string {
	if epoch == "" {
		return clusterID
	}
	return clusterID + "/" + epoch
}

func (m *Member) allegiance() string { return allegiance(m.ClusterID, m.Epoch) }

// ClusterAddr is where the member's cluster port listens.
func (m Member) ClusterAddr() netip.AddrPort { return netip.AddrPortFrom(m.Addr, m.ClusterPort) }
