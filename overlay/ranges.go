package overlay

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"

	"kontiki/overlay/datapath"
)

// Services have addresses of the range that the cluster was formed with, and of ServiceCIDRs
// that somebody made since. Nobody has looked at those ranges for this machine: one that lies
// across what the node reaches otherwise gets no route, and nothing in it is refused.

// nowhere are addresses that are no Service's, whatever a ServiceCIDR says: this
// machine's own, its link's, of many, and reserved ones.
var nowhere = []datapath.Network{
	{Prefix: netip.MustParsePrefix("0.0.0.0/8"), What: "this network's own addresses"},
	{Prefix: netip.MustParsePrefix("127.0.0.0/8"), What: "addresses of the machine itself"},
	{Prefix: netip.MustParsePrefix("169.254.0.0/16"), What: "addresses of a link"},
	{Prefix: netip.MustParsePrefix("224.0.0.0/3"), What: "addresses of groups and reserved ones"},
}

// acceptRanges returns which of the wanted ranges of Services packets can be led to, each once,
// besides those that are led there anyway, and says why others cannot. It is a pure function.
func acceptRanges(wanted, anyway []netip.Prefix, taken []datapath.Network) (accepted []netip.Prefix, complaints []string) {
	wanted = slices.Clone(wanted)
	for i := range wanted {
		wanted[i] = wanted[i].Masked()
	}
	// The largest first: others may be in it.
	slices.SortFunc(wanted, func(a, b netip.Prefix) int {
		return cmp.Or(cmp.Compare(a.Bits(), b.Bits()), a.Addr().Compare(b.Addr()))
	})
	for _, r := range slices.Compact(wanted) {
		within := func(p netip.Prefix) bool { return p.Bits() <= r.Bits() && p.Contains(r.Addr()) }
		if !r.Addr().Is4() || slices.ContainsFunc(anyway, within) || slices.ContainsFunc(accepted, within) {
			continue
		}
		if i := slices.IndexFunc(taken, func(n datapath.Network) bool { return n.InTheWay(r) }); i >= 0 {
			complaints = append(complaints, fmt.Sprintf("the range %s of Services overlaps %s, %s: this node leads nothing of it to Services but what pods send there; make another ServiceCIDR in its place", r, taken[i].Prefix, taken[i].What))
			continue
		}
		accepted = append(accepted, r)
	}
	return accepted, complaints
}

// serviceRanges returns the ranges of all ServiceCIDRs, also of those that are being deleted:
// Services have addresses of them until they are gone. known is false before all were read.
func (o *objects) serviceRanges() (ranges []netip.Prefix, known bool) {
	if !o.ranges.HasSynced() {
		return nil, false
	}
	for _, obj := range o.ranges.GetStore().List() {
		cidr, ok := obj.(*networkingv1.ServiceCIDR)
		if !ok {
			continue
		}
		for _, text := range cidr.Spec.CIDRs {
			if p, err := netip.ParsePrefix(text); err == nil {
				ranges = append(ranges, p)
			}
		}
	}
	return ranges, true
}

// takeRangesLocked looks which ranges of Services there are now, and whether they can be.
func (n *Network) takeRangesLocked() (complaints []string, err error) {
	wanted, known := n.objects.serviceRanges()
	if !known {
		wanted = n.grant.Ranges // the machine may have got other networks meanwhile
	}
	now := n.grant
	if now.Ranges, complaints, err = n.acceptLocked(wanted); err != nil {
		return nil, err
	}
	if now.equal(n.grant) {
		return complaints, nil
	}
	if err := n.rememberLocked(now); err != nil {
		return complaints, err
	}
	n.log.Info("Services have addresses of other ranges besides the cluster's", "ranges", now.Ranges)
	return complaints, nil
}

func (n *Network) acceptLocked(wanted []netip.Prefix) ([]netip.Prefix, []string, error) {
	// With the cluster's own range alone, as nearly always, nothing is asked of the kernel.
	if accepted, _ := acceptRanges(wanted, n.cfg.ServiceCIDRs, nil); len(accepted) == 0 {
		return nil, nil, nil
	}
	taken, err := n.kernel.Networks()
	if err != nil {
		return nil, nil, err
	}
	for _, cidr := range n.cfg.ClusterCIDRs {
		taken = append(taken, datapath.Network{Prefix: cidr, What: "the pods' range"})
	}
	at := func(addr netip.Addr, what string) {
		if addr.IsValid() {
			taken = append(taken, datapath.Network{Prefix: netip.PrefixFrom(addr, addr.BitLen()), What: what})
		}
	}
	for _, l := range n.cfg.Leases.Leases() {
		at(l.Endpoint.Addr, "the address of node "+l.NodeID)
	}
	for _, server := range n.upstreams() {
		at(server.Addr(), "a name server's address")
	}
	accepted, complaints := acceptRanges(wanted, n.cfg.ServiceCIDRs, append(taken, nowhere...))
	return accepted, complaints, nil
}

// serviceRangesLocked are all ranges that packets are led to.
func (n *Network) serviceRangesLocked() []netip.Prefix {
	return slices.Concat(n.cfg.ServiceCIDRs, n.grant.Ranges)
}
