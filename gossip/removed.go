package gossip

import (
	"maps"
	"net/netip"
	"slices"
)

// RefusalKind says why a node was refused.
type RefusalKind string

// The kinds of Refusal.
const (
	// RefusedSecret: what came from Addr was encrypted with another secret's key.
	RefusedSecret RefusalKind = "secret"
	// RefusedCluster: the node belongs to cluster ClusterID.
	RefusedCluster RefusalKind = "cluster"
	// RefusedEpoch: the node belongs to epoch Epoch of this cluster.
	RefusedEpoch RefusalKind = "epoch"
	// RefusedRemoved: an operator removed the node from this cluster.
	RefusedRemoved RefusalKind = "removed"
)

// Refusal is a node that the ring kept out. Fields that are not known are zero.
type Refusal struct {
	Kind      RefusalKind
	ID, Name  string
	Addr      netip.Addr
	ClusterID string
	Epoch     string
}

// refused tells of a refusal, as often as it happens. It must not be called with
// r.mu held.
func (r *Ring) refused(f Refusal) {
	r.figures.refused(f.Kind)
	if r.cfg.Refused != nil {
		r.cfg.Refused(f)
	}
}

// SetRemoved says which nodes an operator removed from the cluster: they leave
// Members, Leases and the address book, and are refused from then on. The list
// replaces the one before, and is told to whoever this node exchanges its state with,
// so that a removed node hears of it.
func (r *Ring) SetRemoved(ids []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	removed := map[string]bool{}
	for _, id := range ids {
		if id != r.dir.self.ID && len(removed) < maxMembers {
			removed[id] = true
		}
	}
	if maps.Equal(removed, r.dir.removed) {
		return
	}
	r.dir.removed = removed
	for id := range removed {
		delete(r.dir.members, id)
		r.leases.forget(id)
	}
	r.changedLocked()
	r.leasesChanged.notify()
}

// Removed tells whether another member of the cluster has said that an operator
// removed this node. Watch tells of the change.
func (r *Ring) Removed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dir.selfRemoved
}

// hearRemoved takes another node's list of removed nodes, of which only the
// question whether this node is on it matters here.
func (r *Ring) hearRemoved(cluster string, removed []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	self := &r.dir.self
	if cluster == "" || cluster != self.allegiance() || r.dir.selfRemoved || !slices.Contains(removed, self.ID) {
		return
	}
	r.dir.selfRemoved = true
	r.changedLocked()
}

// removedLocked lists the removed nodes, for push-pull.
func (r *Ring) removedLocked() []string { return slices.Sorted(maps.Keys(r.dir.removed)) }
