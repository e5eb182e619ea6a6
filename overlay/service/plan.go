package service

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"kontiki/overlay/internal/seeded"
)

// Node is what a plan depends on besides the objects.
type Node struct {
	Name string
	Zone string          // empty: none
	Dead map[string]bool // nodes the ring holds for dead, by name
	Addr netip.Addr      // its own, as other nodes reach it; zero: none now
}

// Plan returns the frontends of a Service on one node. It is a pure function; a
// Service without a cluster IP (headless, ExternalName) has none.
func Plan(svc *corev1.Service, epSlices []*discoveryv1.EndpointSlice, node Node) map[Frontend]Pool {
	if svc == nil || svc.Spec.Type == corev1.ServiceTypeExternalName || svc.Spec.ClusterIP == corev1.ClusterIPNone {
		return nil
	}
	pools := map[Frontend]Pool{}
	internalLocal := svc.Spec.InternalTrafficPolicy != nil && *svc.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal
	externalLocal := svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	stick := affinity(svc)
	balancers := balancerIPs(svc, node.Addr)
	restricted, sources := sourcesOf(svc, balancers, node.Addr)
	for _, port := range svc.Spec.Ports {
		proto, ok := protocolOf(port.Protocol)
		if !ok {
			continue
		}
		here, everywhere := endpoints(port, epSlices, node)
		inside, outside := everywhere, everywhere
		if internalLocal {
			inside = here
		}
		if externalLocal {
			outside = here
		}
		for _, ip := range clusterIPs(svc) {
			pools[Frontend{ip, proto, uint16(port.Port)}] = Pool{Endpoints: inside, Affinity: stick}
		}
		fromOutside := Pool{Endpoints: outside, Masquerade: !externalLocal, Affinity: stick}
		for _, ip := range ipv4s(svc.Spec.ExternalIPs) {
			pools[Frontend{ip, proto, uint16(port.Port)}] = fromOutside
		}
		balanced := fromOutside
		balanced.Restricted, balanced.Sources = restricted, sources
		for _, ip := range balancers {
			pools[Frontend{ip, proto, uint16(port.Port)}] = balanced
		}
		if port.NodePort != 0 {
			pools[Frontend{netip.Addr{}, proto, uint16(port.NodePort)}] = fromOutside
		}
	}
	return pools
}

// endpoints returns the endpoints of a port, those of this node and all that are for it.
// Ready ones on living nodes count, the closest of them; if there are none, those that still
// serve while they terminate (KEP-1669). Those on dead nodes count for nothing: a
// connection that is refused at once is better than one that hangs.
func endpoints(port corev1.ServicePort, epSlices []*discoveryv1.EndpointSlice, node Node) (here, everywhere []netip.AddrPort) {
	var ending, readyHere, endingHere []netip.AddrPort
	var ready []hinted
	if seeded.EmptiedServices && len(node.Dead) > 0 {
		return nil, nil
	}
	for _, slice := range epSlices {
		if slice.AddressType != discoveryv1.AddressTypeIPv4 {
			continue
		}
		number, ok := portNumber(slice, port)
		if !ok {
			continue
		}
		for _, ep := range slice.Endpoints {
			if ep.NodeName != nil && node.Dead[*ep.NodeName] || len(ep.Addresses) == 0 {
				continue
			}
			// The addresses of one endpoint are interchangeable; the first is used.
			addr, err := netip.ParseAddr(ep.Addresses[0])
			if err != nil || !addr.Is4() {
				continue
			}
			target := netip.AddrPortFrom(addr, number)
			local := ep.NodeName != nil && *ep.NodeName == node.Name
			switch c := ep.Conditions; {
			case c.Ready == nil || *c.Ready:
				ready = append(ready, hinted{target, ep.Hints})
				if local {
					readyHere = append(readyHere, target)
				}
			case c.Serving != nil && *c.Serving && c.Terminating != nil && *c.Terminating:
				ending = append(ending, target)
				if local {
					endingHere = append(endingHere, target)
				}
			}
		}
	}
	return firstOf(readyHere, endingHere), firstOf(closest(ready, node), ending)
}

// hinted is a ready endpoint, with for whom it is.
type hinted struct {
	addr  netip.AddrPort
	hints *discoveryv1.EndpointHints
}

// closest are the endpoints that are for this node, else those for its zone. Where one has
// no such hint, or none is for it, all are: kube-proxy's rule.
func closest(ready []hinted, node Node) []netip.AddrPort {
	forNode := func(h *discoveryv1.EndpointHints) (some, ours bool) {
		return len(h.ForNodes) > 0, slices.ContainsFunc(h.ForNodes, func(f discoveryv1.ForNode) bool { return f.Name == node.Name })
	}
	forZone := func(h *discoveryv1.EndpointHints) (some, ours bool) {
		return len(h.ForZones) > 0, slices.ContainsFunc(h.ForZones, func(f discoveryv1.ForZone) bool { return f.Name == node.Zone })
	}
	for _, by := range []func(*discoveryv1.EndpointHints) (some, ours bool){forNode, forZone} {
		if near, told := nearest(ready, by); told && len(near) > 0 {
			return near
		}
	}
	all := make([]netip.AddrPort, 0, len(ready))
	for _, r := range ready {
		all = append(all, r.addr)
	}
	return all
}

// nearest are the endpoints of which a hint says that they are ours; told is whether all
// have a hint.
func nearest(ready []hinted, by func(*discoveryv1.EndpointHints) (some, ours bool)) (near []netip.AddrPort, told bool) {
	for _, r := range ready {
		if r.hints == nil {
			return nil, false
		}
		some, ours := by(r.hints)
		if !some {
			return nil, false
		}
		if ours {
			near = append(near, r.addr)
		}
	}
	return near, true
}

// firstOf returns the first list that is not empty, sorted, each entry once.
func firstOf(lists ...[]netip.AddrPort) []netip.AddrPort {
	for _, l := range lists {
		if len(l) > 0 {
			slices.SortFunc(l, netip.AddrPort.Compare)
			return slices.Compact(l)
		}
	}
	return nil
}

// portNumber finds the number of a Service's port in a slice: by its name, as the
// API says.
func portNumber(slice *discoveryv1.EndpointSlice, port corev1.ServicePort) (uint16, bool) {
	for _, p := range slice.Ports {
		name, proto := "", corev1.ProtocolTCP
		if p.Name != nil {
			name = *p.Name
		}
		if p.Protocol != nil {
			proto = *p.Protocol
		}
		want := port.Protocol
		if want == "" {
			want = corev1.ProtocolTCP
		}
		if name == port.Name && proto == want && p.Port != nil && *p.Port > 0 && *p.Port < 1<<16 {
			return uint16(*p.Port), true
		}
	}
	return 0, false
}

func clusterIPs(svc *corev1.Service) []netip.Addr {
	list := svc.Spec.ClusterIPs
	if len(list) == 0 {
		list = []string{svc.Spec.ClusterIP}
	}
	return ipv4s(list)
}

// balancerIPs are the load balancer's addresses at which this node takes
// connections. One of mode Proxy is that of a node (or of a balancer): packets travel
// there, so only the node with that address takes them, and the source policy there
// is in force.
func balancerIPs(svc *corev1.Service, self netip.Addr) []netip.Addr {
	var list []string
	for _, in := range svc.Status.LoadBalancer.Ingress {
		if in.IPMode == nil || *in.IPMode == corev1.LoadBalancerIPModeVIP || self.IsValid() && in.IP == self.String() {
			list = append(list, in.IP)
		}
	}
	return ipv4s(list)
}

// sourcesOf are the clients that spec.loadBalancerSourceRanges lets in at the load
// balancer's addresses; elsewhere it does not count, at node ports neither. Where no
// range is of IPv4, nobody is let in: somebody meant to keep others out. What a node
// sends to a balancer's address that it has itself comes from that address, and is let
// in when the node is.
func sourcesOf(svc *corev1.Service, balancers []netip.Addr, self netip.Addr) (restricted bool, sources []netip.Prefix) {
	if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return false, nil
	}
	for _, s := range svc.Spec.LoadBalancerSourceRanges {
		restricted = true
		if p, err := netip.ParsePrefix(strings.TrimSpace(s)); err == nil && p.Addr().Is4() {
			sources = append(sources, p.Masked())
		}
	}
	if slices.ContainsFunc(sources, func(p netip.Prefix) bool { return p.Bits() == 0 }) {
		return false, nil
	}
	if slices.ContainsFunc(sources, func(p netip.Prefix) bool { return p.Contains(self) }) {
		for _, ip := range balancers {
			sources = append(sources, netip.PrefixFrom(ip, 32))
		}
	}
	slices.SortFunc(sources, netip.Prefix.Compare)
	return restricted, slices.Compact(sources)
}

// affinity is how long a client that comes back finds the same endpoint.
func affinity(svc *corev1.Service) time.Duration {
	if svc.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	seconds := corev1.DefaultClientIPServiceAffinitySeconds
	if c := svc.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		seconds = *c.ClientIP.TimeoutSeconds
	}
	return time.Duration(seconds) * time.Second
}

func ipv4s(list []string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		if ip, err := netip.ParseAddr(s); err == nil && ip.Is4() {
			out = append(out, ip)
		}
	}
	return out
}

func protocolOf(p corev1.Protocol) (Protocol, bool) {
	switch p {
	case corev1.ProtocolTCP, "":
		return TCP, true
	case corev1.ProtocolUDP:
		return UDP, true
	case corev1.ProtocolSCTP:
		return SCTP, true
	}
	return 0, false
}

// ParseProtocol reads the API's name of a protocol.
func ParseProtocol(s string) (Protocol, bool) { return protocolOf(corev1.Protocol(s)) }
