package allocate

import (
	"context"
	"net/netip"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kontiki/raftstore"
)

// DefaultServiceCIDR is the name of the ServiceCIDR of the cluster's own ranges,
// upstream's. As long as there is none, they are in force all the same.
const DefaultServiceCIDR = "kubernetes"

// minPrefix6 is the shortest prefix of IPv6 that addresses are given from, upstream's.
const minPrefix6 = 64

// source is a ServiceCIDR that is in force: addresses are given from it while its key
// has that revision.
type source struct {
	key      string
	revision uint64 // 0: there is no such object
	blocks   []block
}

// sources returns the ServiceCIDRs that are in force, the cluster's own first.
func (l *Ledger) sources(ctx context.Context, view raftstore.View) []source {
	own := l.ranges.Key(DefaultServiceCIDR)
	var all []source
	if kv, ok := view.Get(own); !ok {
		all = append(all, source{key: own, blocks: blocksOf(l.own)})
	} else if from, ok := l.source(ctx, kv); ok {
		all = append(all, from)
	}
	l.ranges.Each(view, func(kv raftstore.KV) bool {
		if kv.Key == own {
			return true
		}
		if from, ok := l.source(ctx, kv); ok {
			all = append(all, from)
		}
		return true
	})
	return all
}

// source reads a ServiceCIDR; false if it is not in force, or cannot be read.
func (l *Ledger) source(ctx context.Context, kv raftstore.KV) (source, bool) {
	obj, err := l.ranges.Object(ctx, kv)
	if err != nil {
		return source{}, false
	}
	cidr, ok := obj.(*networkingv1.ServiceCIDR)
	if !ok || !inForce(cidr) {
		return source{}, false
	}
	var prefixes []netip.Prefix
	for _, text := range cidr.Spec.CIDRs {
		if p, err := netip.ParsePrefix(text); err == nil {
			prefixes = append(prefixes, p)
		}
	}
	return source{key: kv.Key, revision: kv.ModRevision, blocks: blocksOf(prefixes)}, true
}

// inForce tells whether addresses are given from a ServiceCIDR. One of which nobody has
// said anything yet counts as ready.
func inForce(cidr *networkingv1.ServiceCIDR) bool {
	if cidr.DeletionTimestamp != nil {
		return false
	}
	for _, c := range cidr.Status.Conditions {
		if c.Type == networkingv1.ServiceCIDRConditionReady {
			return c.Status == metav1.ConditionTrue
		}
	}
	return true
}

func blocksOf(prefixes []netip.Prefix) []block {
	var all []block
	for _, p := range prefixes {
		if p.Addr().Is4() || p.Bits() >= minPrefix6 {
			all = append(all, newBlock(p))
		}
	}
	return all
}

// sourceOf returns a ServiceCIDR that ip can be given from.
func (l *Ledger) sourceOf(ctx context.Context, view raftstore.View, ip netip.Addr) (source, bool) {
	for _, from := range l.sources(ctx, view) {
		for _, b := range from.blocks {
			if b.contains(ip) {
				return from, true
			}
		}
	}
	return source{}, false
}

// free tells whether nobody holds ip in view, a Service or whoever has made an IPAddress.
func (l *Ledger) free(view raftstore.View, ip netip.Addr) bool {
	if _, held := view.Get(IPKey(ip)); held {
		return false
	}
	_, held := view.Get(l.shown.Key(ip.String()))
	return !held
}
