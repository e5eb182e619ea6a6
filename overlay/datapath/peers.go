package datapath

// How a packet finds the pod of another node: the route of the peer's subnet
// names the subnet's own address as gateway on the tunnel; the neighbour entry
// of that address gives the peer's tunnel MAC without asking; the forwarding
// entry of that MAC gives the peer's underlay address. Nothing is flooded or
// learned: a packet for a node that is not in these tables is dropped here.
// Three small entries a peer, one longest-prefix lookup and two hash lookups a packet.

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kontiki/internal/dump"
)

func mustMAC(s string) net.HardwareAddr {
	mac, err := net.ParseMAC(s)
	if err != nil {
		panic("datapath: a planned hardware address does not parse: " + s)
	}
	return mac
}

func (c *change) forwards(tunnel netlink.Link, want []Forward) {
	index := tunnel.Attrs().Index
	have, err := dump.All(func() ([]netlink.Neigh, error) { return c.h.NeighList(index, unix.AF_BRIDGE) })
	if err != nil {
		c.did(err, "list forwarding entries of %s", TunnelName)
		return
	}
	missing := map[Forward]bool{}
	for _, f := range want {
		missing[f] = true
	}
	for i := range have {
		addr, _ := netip.AddrFromSlice(have[i].IP)
		f := Forward{MAC: have[i].HardwareAddr.String(), Addr: addr.Unmap()}
		if missing[f] && have[i].State&unix.NUD_PERMANENT != 0 {
			delete(missing, f)
			continue
		}
		have[i].Family, have[i].Flags = unix.AF_BRIDGE, unix.NTF_SELF
		c.did(c.h.NeighDel(&have[i]), "remove forwarding entry %s via %s", f.MAC, f.Addr)
	}
	for _, f := range want {
		if missing[f] {
			c.did(c.h.NeighSet(&netlink.Neigh{
				LinkIndex: index, Family: unix.AF_BRIDGE, Flags: unix.NTF_SELF, State: unix.NUD_PERMANENT,
				IP: f.Addr.AsSlice(), HardwareAddr: mustMAC(f.MAC),
			}), "forward %s via %s", f.MAC, f.Addr)
		}
	}
}

func (c *change) neighbours(tunnel netlink.Link, want []Neighbour) {
	index := tunnel.Attrs().Index
	have, err := dump.All(func() ([]netlink.Neigh, error) { return c.h.NeighList(index, netlink.FAMILY_V4) })
	if err != nil {
		c.did(err, "list neighbours of %s", TunnelName)
		return
	}
	missing := map[Neighbour]bool{}
	for _, n := range want {
		missing[n] = true
	}
	for i := range have {
		if have[i].State&unix.NUD_NOARP != 0 {
			continue // the kernel's own, for multicast and broadcast
		}
		addr, _ := netip.AddrFromSlice(have[i].IP)
		n := Neighbour{Addr: addr.Unmap(), MAC: have[i].HardwareAddr.String()}
		if missing[n] && have[i].State&unix.NUD_PERMANENT != 0 {
			delete(missing, n)
			continue
		}
		if have[i].State&unix.NUD_PERMANENT == 0 {
			continue // a lookup under way; replaced below where we know better
		}
		c.did(c.h.NeighDel(&have[i]), "remove neighbour %s of %s", n.Addr, TunnelName)
	}
	for _, n := range want {
		if missing[n] {
			c.did(c.h.NeighSet(&netlink.Neigh{
				LinkIndex: index, Family: netlink.FAMILY_V4, Type: unix.RTN_UNICAST, State: unix.NUD_PERMANENT,
				IP: n.Addr.AsSlice(), HardwareAddr: mustMAC(n.MAC),
			}), "make %s neighbour %s", n.MAC, n.Addr)
		}
	}
}

// routes makes the routes of our protocol those wanted. A device that is not
// there has no routes: the kernel removed them with it.
func (c *change) routes(want []Route, bridge, tunnel netlink.Link, underlay int) {
	have, err := ownRoutes(c.h)
	if err != nil {
		c.did(err, "list routes")
		return
	}
	index := map[string]int{}
	if bridge != nil {
		index[BridgeName] = bridge.Attrs().Index
	}
	if tunnel != nil {
		index[TunnelName] = tunnel.Attrs().Index
	}
	if underlay != 0 {
		index[underlayDevice] = underlay
	}
	type key struct {
		Route
		index int
	}
	missing := map[key]bool{}
	for _, r := range want {
		if i, ok := index[r.Device]; ok {
			missing[key{r, i}] = true
		}
	}
	name := map[int]string{}
	for n, i := range index {
		name[i] = n
	}
	for i := range have {
		dst, _ := prefixOf(have[i].Dst)
		via, _ := netip.AddrFromSlice(have[i].Gw)
		src, _ := netip.AddrFromSlice(have[i].Src)
		k := key{Route{Dst: dst, Device: name[have[i].LinkIndex], Via: via.Unmap(), Src: src.Unmap()}, have[i].LinkIndex}
		if missing[k] {
			delete(missing, k)
			continue
		}
		if k.Device == "" && (bridge == nil || tunnel == nil) {
			continue // of a device that could not be looked at, or whose tunnel waits for its underlay
		}
		c.did(c.h.RouteDel(&have[i]), "remove route %s", dst)
	}
	for _, r := range want {
		i, ok := index[r.Device]
		if !ok || !missing[key{r, i}] {
			continue
		}
		route := &netlink.Route{LinkIndex: i, Dst: ipnet(r.Dst), Protocol: RouteProtocol, Scope: netlink.SCOPE_LINK}
		if r.Via.IsValid() {
			route.Gw, route.Flags, route.Scope = r.Via.AsSlice(), int(netlink.FLAG_ONLINK), netlink.SCOPE_UNIVERSE
		}
		if r.Src.IsValid() {
			route.Src = r.Src.AsSlice()
		}
		c.did(c.h.RouteReplace(route), "route %s to %s", r.Dst, r.Device)
	}
}

// removeRoutes removes all routes of our protocol, on whatever device.
func (c *change) removeRoutes() {
	have, err := ownRoutes(c.h)
	if err != nil {
		c.did(err, "list routes")
	}
	for i := range have {
		c.did(c.h.RouteDel(&have[i]), "remove route %s", have[i].Dst)
	}
}

// Remove takes away all that Apply and AttachPod ever made.
func (k *Kernel) Remove() error {
	c := &change{Kernel: k}
	c.ports(nil, nil)
	for _, d := range []struct{ name, kind string }{{TunnelName, "vxlan"}, {BridgeName, "bridge"}} {
		if link, ok := c.find(d.name); ok && link != nil && link.Type() == d.kind {
			c.did(k.h.LinkDel(link), "remove device %s", d.name)
		}
	}
	c.removeRoutes()
	if err := errors.Join(c.errs...); err != nil {
		return fmt.Errorf("taking the pod network down: %w", err)
	}
	return nil
}

// ownRoutes are the routes that carry this room's mark.
func ownRoutes(h *netlink.Handle) ([]netlink.Route, error) {
	return dump.All(func() ([]netlink.Route, error) {
		return h.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: RouteProtocol}, netlink.RT_FILTER_PROTOCOL)
	})
}
