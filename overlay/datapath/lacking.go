package datapath

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kontiki/internal/dump"
)

// Lacking says of the wanted routes which do not lead where they should now, by
// destination, and what is missing. It changes nothing, and costs three tables read.
func (k *Kernel) Lacking(w Wanted) (map[netip.Prefix]string, error) {
	devices, err := k.indexes(w)
	if err != nil {
		return nil, err
	}
	have, err := ownRoutes(k.h)
	if err != nil {
		return nil, fmt.Errorf("listing routes: %w", err)
	}
	forwards, neighbours, err := k.tunnelEntries(devices[TunnelName])
	if err != nil {
		return nil, err
	}
	lacking := map[netip.Prefix]string{}
	for _, r := range w.Routes {
		index, there := devices[r.Device]
		switch {
		case !there:
			lacking[r.Dst] = fmt.Sprintf("device %s is missing", r.Device)
		case !slices.ContainsFunc(have, func(h netlink.Route) bool { return h.LinkIndex == index && leadsTo(h, r) }):
			lacking[r.Dst] = "its route is missing"
		case r.Device == TunnelName:
			if what := unresolved(w, r, forwards, neighbours); what != "" {
				lacking[r.Dst] = what
			}
		}
	}
	return lacking, nil
}

// indexes are those of the devices that routes may name, as far as they are there.
func (k *Kernel) indexes(w Wanted) (map[string]int, error) {
	found := map[string]int{}
	if w.Underlay != 0 {
		found[underlayDevice] = w.Underlay
	}
	for _, name := range []string{BridgeName, TunnelName} {
		link, err := k.h.LinkByName(name)
		var missing netlink.LinkNotFoundError
		switch {
		case errors.As(err, &missing):
		case err != nil:
			return nil, fmt.Errorf("looking at device %s: %w", name, err)
		default:
			found[name] = link.Attrs().Index
		}
	}
	return found, nil
}

func leadsTo(have netlink.Route, want Route) bool {
	dst, _ := prefixOf(have.Dst)
	via, _ := netip.AddrFromSlice(have.Gw)
	return dst == want.Dst && via.Unmap() == want.Via
}

// tunnelEntries are the tunnel's permanent entries; index is 0 if there is no tunnel.
func (k *Kernel) tunnelEntries(index int) (forwards map[Forward]bool, neighbours map[Neighbour]bool, err error) {
	forwards, neighbours = map[Forward]bool{}, map[Neighbour]bool{}
	if index == 0 {
		return forwards, neighbours, nil
	}
	for _, family := range []int{unix.AF_BRIDGE, netlink.FAMILY_V4} {
		entries, err := dump.All(func() ([]netlink.Neigh, error) { return k.h.NeighList(index, family) })
		if err != nil {
			return nil, nil, fmt.Errorf("listing entries of %s: %w", TunnelName, err)
		}
		for _, e := range entries {
			addr, _ := netip.AddrFromSlice(e.IP)
			switch {
			case e.State&unix.NUD_PERMANENT == 0:
			case family == unix.AF_BRIDGE:
				forwards[Forward{MAC: e.HardwareAddr.String(), Addr: addr.Unmap()}] = true
			default:
				neighbours[Neighbour{Addr: addr.Unmap(), MAC: e.HardwareAddr.String()}] = true
			}
		}
	}
	return forwards, neighbours, nil
}

// unresolved says what is missing behind a route through the tunnel.
func unresolved(w Wanted, r Route, forwards map[Forward]bool, neighbours map[Neighbour]bool) string {
	i := slices.IndexFunc(w.Neighbours, func(n Neighbour) bool { return n.Addr == r.Via })
	if i < 0 {
		return ""
	}
	if !neighbours[w.Neighbours[i]] {
		return "its neighbour entry is missing"
	}
	for _, f := range w.Forwards {
		if f.MAC == w.Neighbours[i].MAC && !forwards[f] {
			return "its forwarding entry is missing"
		}
	}
	return ""
}
