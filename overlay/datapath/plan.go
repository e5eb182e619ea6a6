package datapath

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"kontiki/overlay/ipam"
)

const (
	// BridgeName is the device the node's pods hang on.
	BridgeName = "kontiki0"
	// TunnelName is the device that leads to other nodes' pods.
	TunnelName = "kontiki.1"
	// VNI and Port are those of the one VXLAN network of a cluster.
	VNI  = 1
	Port = 8472
	// RouteProtocol marks this program's routes, as the RTPROT_* of iproute2 do.
	RouteProtocol = 75
	// portPrefix begins the name of every pod's link on the node's side.
	portPrefix = "ktk"
	// minPodMTU is what IPv4 asks for.
	minPodMTU = 576
	// underlayDevice stands for the device of the node's own address in routes.
	underlayDevice = "(underlay)"
)

// Peer is another node: its pods' subnets and where its tunnel ends.
type Peer struct {
	NodeID        string
	Subnets       []netip.Prefix
	GrantRevision uint64
	Addr          netip.Addr
	MAC           net.HardwareAddr
}

// Underlay is the device the node's own address is on.
type Underlay struct {
	Addr    netip.Addr
	Segment netip.Prefix // of the addresses that are reached on the device itself
	Index   int
	MTU     int
}

// Input is all that the kernel's state follows from.
type Input struct {
	NodeID        string
	Subnets       []netip.Prefix // of this node; none: no pod network yet
	GrantRevision uint64
	Backend       Backend
	Underlay      Underlay // zero: the node's address is on no device now
	ClusterCIDRs  []netip.Prefix
	ServiceCIDRs  []netip.Prefix
	ClusterDNS    netip.Addr
	Peers         []Peer
	Pods          []string // uids of the pods attached
}

// Bridge is the wanted bridge.
type Bridge struct {
	MAC   net.HardwareAddr
	MTU   int // 0: leave
	Addrs []netip.Prefix
}

// Tunnel is the wanted VXLAN device.
type Tunnel struct {
	MAC    net.HardwareAddr
	MTU    int
	Local  netip.Addr
	Parent int
	Addrs  []netip.Prefix
}

// Forward is a peer's forwarding entry: frames for its tunnel's MAC go to Addr.
type Forward struct {
	MAC  string
	Addr netip.Addr
}

// Neighbour is a permanent neighbour entry on the tunnel.
type Neighbour struct {
	Addr netip.Addr
	MAC  string
}

// Route is a wanted route.
type Route struct {
	Dst    netip.Prefix
	Device string
	Via    netip.Addr // zero: on the link itself
	Src    netip.Addr
}

// Wanted is what the kernel should hold.
type Wanted struct {
	Bridge     *Bridge
	Tunnel     *Tunnel
	Forwards   []Forward
	Neighbours []Neighbour
	Routes     []Route
	Ports      []string // names of pod links on the node's side
	Underlay   int      // index of the device that routes name underlayDevice
}

// Plan says what the kernel should hold, and what of the input contradicts
// itself, in words for an operator. It is a pure function.
func Plan(in Input) (Wanted, []string) {
	var w Wanted
	var complaints []string
	w.Bridge = &Bridge{MAC: macOf("bridge", in.NodeID)}
	if in.ClusterDNS.Is4() {
		w.Bridge.Addrs = append(w.Bridge.Addrs, netip.PrefixFrom(in.ClusterDNS, 32))
	}
	for _, uid := range in.Pods {
		w.Ports = append(w.Ports, PortName(uid))
	}
	slices.Sort(w.Ports)
	own := ipv4(in.Subnets)
	for _, s := range own {
		w.Bridge.Addrs = append(w.Bridge.Addrs, netip.PrefixFrom(ipam.Gateway(s), s.Bits()))
	}
	if len(own) > 0 {
		for _, cidr := range ipv4(in.ServiceCIDRs) {
			w.Routes = append(w.Routes, Route{Dst: cidr.Masked(), Device: BridgeName, Src: ipam.Gateway(own[0])})
		}
	}
	if !in.Underlay.Addr.IsValid() || len(own) == 0 {
		return w, complaints
	}
	for _, cidr := range slices.Concat(in.ClusterCIDRs, in.ServiceCIDRs) {
		if cidr.Contains(in.Underlay.Addr) {
			return w, append(complaints, fmt.Sprintf("the node's own address %s is in the range %s of pods or Services: give the node another, or form the cluster with another range", in.Underlay.Addr, cidr))
		}
	}
	w.Bridge.MTU = PodMTU(in.Backend, in.Underlay.MTU)
	if w.Bridge.MTU < minPodMTU {
		w.Bridge.MTU = 0
		return w, append(complaints, fmt.Sprintf("the device with the node's address %s has an MTU of %d: the pod network needs at least %d, raise it", in.Underlay.Addr, in.Underlay.MTU, minPodMTU+in.Backend.way().overhead()))
	}
	peers, more := settle(in, own)
	complaints = append(complaints, more...)
	return w, append(complaints, in.Backend.way().plan(&w, in, own, peers)...)
}

// share is one subnet of one peer.
type share struct {
	subnet netip.Prefix
	peer   Peer
}

// settle gives every subnet to one node: that of the newest grant.
func settle(in Input, own []netip.Prefix) (shares []share, complaints []string) {
	for _, p := range in.Peers {
		if p.NodeID == in.NodeID || !p.Addr.Is4() || len(p.MAC) != 6 {
			continue
		}
		for _, s := range ipv4(p.Subnets) {
			if first, _ := ipam.Usable(s); first.IsValid() {
				shares = append(shares, share{s.Masked(), p})
			}
		}
	}
	slices.SortFunc(shares, func(a, b share) int {
		if a.peer.GrantRevision != b.peer.GrantRevision {
			if a.peer.GrantRevision > b.peer.GrantRevision {
				return -1
			}
			return 1
		}
		return strings.Compare(a.peer.NodeID, b.peer.NodeID)
	})
	var kept []share
	for _, s := range shares {
		if i := slices.IndexFunc(own, s.subnet.Overlaps); i >= 0 {
			if s.peer.GrantRevision > in.GrantRevision {
				complaints = append(complaints, fmt.Sprintf("subnet %s of this node was granted again to node %s: this node must join anew", own[i], s.peer.NodeID))
			}
			continue
		}
		if slices.ContainsFunc(kept, func(k share) bool { return k.subnet.Overlaps(s.subnet) }) {
			continue // an older grant of a subnet that has passed on
		}
		kept = append(kept, s)
	}
	slices.SortFunc(kept, func(a, b share) int { return a.subnet.Addr().Compare(b.subnet.Addr()) })
	return kept, complaints
}

// TunnelMAC is the hardware address of a node's tunnel: it follows from the
// node's id, so that a device that had to be made again is the same to others.
func TunnelMAC(nodeID string) net.HardwareAddr { return macOf("tunnel", nodeID) }

// OwnDevice says whether a device of that name is the bridge, the tunnel or a pod's link.
func OwnDevice(name string) bool {
	return name == BridgeName || name == TunnelName || strings.HasPrefix(name, portPrefix) && len(name) == len(PortName(""))
}

// PortName is the name of a pod's link on the node's side.
func PortName(uid string) string {
	sum := sha256.Sum256([]byte(uid))
	return portPrefix + hex.EncodeToString(sum[:6])
}

func macOf(what, nodeID string) net.HardwareAddr {
	sum := sha256.Sum256([]byte("kontiki " + what + " " + nodeID))
	mac := net.HardwareAddr(sum[:6])
	mac[0] = mac[0]&^1 | 2 // unicast, locally administered
	return mac
}

// podMAC follows from the address, so that a neighbour entry that is still
// around when an address passes to another pod is right.
func podMAC(addr netip.Addr) net.HardwareAddr {
	b := addr.As4()
	return net.HardwareAddr{0x0a, 0x58, b[0], b[1], b[2], b[3]}
}

func ipv4(in []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range in {
		if p.Addr().Is4() {
			out = append(out, p)
		}
	}
	return out
}

// PodMTU is what a pod may send over an underlay of the given MTU.
func PodMTU(b Backend, underlay int) int { return underlay - b.way().overhead() }
