package overlay

import "kontiki/gossip"

// Lease is a node's share of the pod network and the way to it, as the ring
// spreads it: what every node builds its routes from.
type Lease = gossip.Lease

// LeaseRing spreads leases between nodes; gossip.Ring is one. It remembers what
// it knew over a restart.
type LeaseRing interface {
	// Leases returns the newest known lease of every node, also of nodes that
	// are away.
	Leases() []Lease
	// WatchLeases returns a channel that gets a value after leases changed
	// (changes may share one) and a function that ends the watch.
	WatchLeases() (<-chan struct{}, func())
	// SetLease publishes this node's own lease. The ring chooses the endpoint's
	// sequence.
	SetLease(Lease) error
}

// DeadNodes tells which nodes the ring holds for dead, by node name. Endpoints
// on them get no new connections.
type DeadNodes interface {
	Dead() map[string]bool
	// WatchDead works as WatchLeases does.
	WatchDead() (<-chan struct{}, func())
}
