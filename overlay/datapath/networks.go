package datapath

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"

	"kontiki/internal/dump"
)

// Network is what a machine reaches without the pod network.
type Network struct {
	Prefix netip.Prefix
	What   string
	// Route says that nothing is known of it but where it leads: as of a default route,
	// a part of it may well be somewhere else.
	Route bool
}

// InTheWay says whether p cannot be led elsewhere without keeping the machine from n.
func (n Network) InTheWay(p netip.Prefix) bool {
	return n.Prefix.Overlaps(p) && (!n.Route || n.Prefix.Bits() >= p.Bits())
}

// Networks are the IPv4 networks that the machine's devices are on and its routes lead to, but
// for this room's own.
func (k *Kernel) Networks() (all []Network, err error) {
	links, err := dump.All(k.h.LinkList)
	if err != nil {
		return nil, fmt.Errorf("listing devices: %w", err)
	}
	device := map[int]string{}
	for _, l := range links {
		device[l.Attrs().Index] = l.Attrs().Name
	}
	addrs, err := dump.All(func() ([]netlink.Addr, error) { return k.h.AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("listing addresses: %w", err)
	}
	for _, a := range addrs {
		if p, ok := prefixOf(a.IPNet); ok && !OwnDevice(device[a.LinkIndex]) {
			all = append(all, Network{Prefix: p.Masked(), What: "the network of " + device[a.LinkIndex]})
		}
	}
	routes, err := dump.All(func() ([]netlink.Route, error) { return k.h.RouteList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("listing routes: %w", err)
	}
	for _, r := range routes {
		if p, ok := prefixOf(r.Dst); ok && r.Protocol != RouteProtocol && !OwnDevice(device[r.LinkIndex]) {
			all = append(all, Network{Prefix: p.Masked(), What: "where a route of this machine leads", Route: true})
		}
	}
	return all, nil
}
