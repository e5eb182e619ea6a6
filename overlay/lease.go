package overlay

import (
	"net"
	"net/netip"
)

// Lease is a node's share of the pod network and the way to it: what the ring
// spreads and every node builds its routes from.
type Lease struct {
	NodeID  string         `json:"nodeID"`
	Subnets []netip.Prefix `json:"subnets"`
	// GrantRevision orders grants: of two leases that name one subnet, the one
	// with the higher revision holds it.
	GrantRevision uint64   `json:"grantRevision"`
	Endpoint      Endpoint `json:"endpoint"`
}

// Endpoint is where a node's tunnel ends.
type Endpoint struct {
	Addr netip.Addr       `json:"addr"` // on the underlay
	MAC  net.HardwareAddr `json:"mac"`  // of the VXLAN device
	MTU  int              `json:"mtu"`  // of the underlay
	// Sequence orders the endpoints of one node.
	Sequence uint64 `json:"sequence"`
}

// LeaseRing spreads leases between nodes; node fills it with gossip's ring.
type LeaseRing interface {
	// Leases returns the newest known lease of every node, also of nodes that
	// are away.
	Leases() []Lease
	// WatchLeases returns a channel that gets a value after leases changed
	// (changes may share one) and a function that ends the watch.
	WatchLeases() (<-chan struct{}, func())
	// SetLease publishes this node's own lease.
	SetLease(Lease)
}

// DeadNodes tells which nodes the ring holds for dead, by node name. Endpoints
// on them get no new connections.
type DeadNodes interface {
	Dead() map[string]bool
	// WatchDead works as WatchLeases does.
	WatchDead() (<-chan struct{}, func())
}
