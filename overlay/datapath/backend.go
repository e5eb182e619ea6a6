package datapath

import (
	"fmt"
	"net/netip"
)

// Backend is how packets get to other nodes' pods. All nodes of a cluster have
// the same.
type Backend string

const (
	// VXLAN sends packets in UDP: it works wherever nodes reach each other. The
	// default.
	VXLAN Backend = "vxlan"
	// HostGateway has the nodes be each other's gateways: as fast as their own
	// network, and only where all of them are on one segment.
	HostGateway Backend = "host-gw"
)

// way is what backends differ in.
type way interface {
	// overhead is how much less than the underlay's MTU a pod has.
	overhead() int
	// plan adds the way to the peers' subnets to w, and says what is in its way.
	plan(w *Wanted, in Input, own []netip.Prefix, peers []share) (complaints []string)
}

func (b Backend) way() way {
	if b == HostGateway {
		return hostGateway{}
	}
	return vxlan{}
}

// Check says whether there is such a backend.
func (b Backend) Check() error {
	if b != VXLAN && b != HostGateway {
		return fmt.Errorf("there is no backend %q of the pod network: use %s or %s", b, VXLAN, HostGateway)
	}
	return nil
}

type vxlan struct{}

// overhead is 14 (inner Ethernet) + 8 (VXLAN) + 8 (UDP) + 20 (IPv4).
func (vxlan) overhead() int { return 50 }

func (v vxlan) plan(w *Wanted, in Input, own []netip.Prefix, peers []share) []string {
	w.Tunnel = &Tunnel{MAC: TunnelMAC(in.NodeID), MTU: in.Underlay.MTU - v.overhead(), Local: in.Underlay.Addr, Parent: in.Underlay.Index}
	for _, s := range own {
		w.Tunnel.Addrs = append(w.Tunnel.Addrs, netip.PrefixFrom(s.Masked().Addr(), 32))
	}
	seen := map[string]bool{}
	for _, s := range peers {
		mac := s.peer.MAC.String()
		via := s.subnet.Addr()
		w.Neighbours = append(w.Neighbours, Neighbour{Addr: via, MAC: mac})
		w.Routes = append(w.Routes, Route{Dst: s.subnet, Device: TunnelName, Via: via})
		if !seen[mac] {
			seen[mac] = true
			w.Forwards = append(w.Forwards, Forward{MAC: mac, Addr: s.peer.Addr})
		}
	}
	return nil
}

type hostGateway struct{}

func (hostGateway) overhead() int { return 0 }

func (hostGateway) plan(w *Wanted, in Input, _ []netip.Prefix, peers []share) (complaints []string) {
	w.Underlay = in.Underlay.Index
	for _, s := range peers {
		if !in.Underlay.Segment.Contains(s.peer.Addr) {
			complaints = append(complaints, fmt.Sprintf("node %s at %s is not on this node's segment %s: pods there are not reached; form the cluster with --pod-network %s", s.peer.NodeID, s.peer.Addr, in.Underlay.Segment, VXLAN))
			continue
		}
		w.Routes = append(w.Routes, Route{Dst: s.subnet, Device: underlayDevice, Via: s.peer.Addr})
	}
	return complaints
}
