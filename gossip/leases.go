package gossip

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
)

// leaseTable holds the newest known lease of each node. Ring guards it.
type leaseTable struct {
	self   string
	own    *Endpoint // what this node's endpoint is, once SetLease has said so
	leases map[string]Lease
}

func newLeaseTable(self string) *leaseTable {
	return &leaseTable{self: self, leases: map[string]Lease{}}
}

// set takes this node's own lease and returns it with its sequence.
func (t *leaseTable) set(l Lease) (Lease, bool) {
	held, ok := t.leases[l.NodeID]
	l = l.clone()
	l.Endpoint.Sequence = max(l.Endpoint.Sequence, held.Endpoint.Sequence)
	if !ok || compareEndpointContent(held.Endpoint, l.Endpoint) != 0 {
		l.Endpoint.Sequence = max(l.Endpoint.Sequence, held.Endpoint.Sequence+1)
	}
	ep := l.Endpoint
	t.own = &ep
	return t.put(mergeLease(held, l), held, ok)
}

// merge takes a lease from disk or from another node. If others hold an endpoint
// of this node that is not its own, its own is raised above theirs.
func (t *leaseTable) merge(l Lease) (Lease, bool) {
	held, ok := t.leases[l.NodeID]
	if !ok && len(t.leases) >= maxMembers {
		return Lease{}, false
	}
	out := l.clone()
	if ok {
		out = mergeLease(held, out)
	}
	if l.NodeID == t.self && t.own != nil && compareEndpointContent(out.Endpoint, *t.own) != 0 {
		seq := out.Endpoint.Sequence + 1
		out.Endpoint = *t.own
		out.Endpoint.Sequence = seq
		t.own.Sequence = seq
	}
	return t.put(out, held, ok)
}

func (t *leaseTable) put(l, held Lease, known bool) (Lease, bool) {
	l.NodeID = cmp.Or(l.NodeID, t.self)
	if known && l.equal(held) {
		return held, false
	}
	t.leases[l.NodeID] = l
	return l, true
}

// forget drops a node's lease. It stays out while the node is known as removed.
func (t *leaseTable) forget(id string) { delete(t.leases, id) }

// all returns every lease as it was learned, by node id.
func (t *leaseTable) all() []Lease {
	out := slices.Collect(maps.Values(t.leases))
	slices.SortFunc(out, func(a, b Lease) int { return cmp.Compare(a.NodeID, b.NodeID) })
	return out
}

// effective returns the leases that hold: where two overlap, because a subnet was
// granted anew after its node was removed, the newer grant has it.
func (t *leaseTable) effective() []Lease {
	all := t.all()
	byAge := slices.Clone(all)
	slices.SortStableFunc(byAge, func(a, b Lease) int { return cmp.Compare(b.GrantRevision, a.GrantRevision) })
	taken := newPrefixSet()
	kept := map[string][]netip.Prefix{}
	for _, l := range byAge {
		for _, p := range l.Subnets {
			if taken.add(p) {
				kept[l.NodeID] = append(kept[l.NodeID], p)
			}
		}
	}
	for i := range all {
		all[i] = all[i].clone()
		all[i].Subnets = kept[all[i].NodeID]
	}
	return all
}

// prefixSet holds prefixes that do not overlap.
type prefixSet struct {
	exact map[netip.Prefix]bool
	bits  map[int]bool // the lengths in exact
}

func newPrefixSet() *prefixSet {
	return &prefixSet{exact: map[netip.Prefix]bool{}, bits: map[int]bool{}}
}

// add reports whether p was added, that is, whether it overlaps nothing yet there.
// Subnets of one cluster have one length per family, so the common case costs a
// look-up; only a shorter prefix than one already there costs a scan.
func (s *prefixSet) add(p netip.Prefix) bool {
	scan := false
	for b := range s.bits {
		if b > p.Bits() {
			scan = true
			continue
		}
		if q, err := p.Addr().Prefix(b); err == nil && s.exact[q] {
			return false
		}
	}
	if scan {
		for q := range s.exact {
			if q.Overlaps(p) {
				return false
			}
		}
	}
	s.exact[p], s.bits[p.Bits()] = true, true
	return true
}
