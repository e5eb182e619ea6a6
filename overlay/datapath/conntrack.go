package datapath

// A UDP client that goes on sending from one port keeps what conntrack knows of it
// for ever: a translation to an endpoint that is gone, or none, if it began before
// there were endpoints. TCP needs nothing: a connection to an endpoint that is gone
// breaks, and the next one is translated anew.

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kontiki/internal/dump"
)

// UDPFrontend is where clients of a Service send datagrams.
type UDPFrontend struct {
	Addr netip.Addr // zero: any address of the node
	Port uint16
}

// ForgetUDP removes the conntrack entries of datagrams to these frontends that are
// not answered by one of the endpoints given, so that the next datagram is balanced
// anew. Where there are no endpoints, entries that are not translated stay: nobody
// else would get the next datagram. It reads the whole conntrack table.
func (k *Kernel) ForgetUDP(now map[UDPFrontend][]netip.AddrPort) error {
	if len(now) == 0 {
		return nil
	}
	addrs, err := dump.All(func() ([]netlink.Addr, error) { return k.h.AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return fmt.Errorf("listing addresses: %w", err)
	}
	f := stale{now: now, own: map[netip.Addr]bool{}}
	for _, a := range addrs {
		if p, ok := prefixOf(a.IPNet); ok {
			f.own[p.Addr()] = true
		}
	}
	if _, err := k.h.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, f); err != nil {
		return fmt.Errorf("removing conntrack entries: %w", err)
	}
	return nil
}

// stale finds the entries that ForgetUDP removes. It is netlink.CustomConntrackFilter.
type stale struct {
	now map[UDPFrontend][]netip.AddrPort
	own map[netip.Addr]bool // addresses of the node
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (f stale) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	to, ok1 := netip.AddrFromSlice(flow.Forward.DstIP)
	by, ok2 := netip.AddrFromSlice(flow.Reverse.SrcIP)
	if !ok1 || !ok2 {
		return false
	}
	sent := netip.AddrPortFrom(to.Unmap(), flow.Forward.DstPort)
	answers := netip.AddrPortFrom(by.Unmap(), flow.Reverse.SrcPort)
	endpoints, ok := f.now[UDPFrontend{Addr: sent.Addr(), Port: sent.Port()}]
	if !ok && (f.own[sent.Addr()] || sent.Addr().IsLoopback()) {
		endpoints, ok = f.now[UDPFrontend{Port: sent.Port()}]
	}
	if !ok || slices.Contains(endpoints, answers) {
		return false
	}
	return len(endpoints) > 0 || answers != sent
}
