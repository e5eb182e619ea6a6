package datapath

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Translation is a way that connections to a frontend no longer go.
type Translation struct {
	Frontend netip.Addr // zero: any
	Port     uint16
	Endpoint netip.AddrPort
}

// ForgetUDP removes the conntrack entries of these ways, so that their next
// packet is a new connection. It reads the whole conntrack table.
func (k *Kernel) ForgetUDP(gone []Translation) error {
	if len(gone) == 0 {
		return nil
	}
	wanted := forgotten{}
	for _, t := range gone {
		wanted[t] = true
	}
	if _, err := k.h.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, wanted); err != nil {
		return fmt.Errorf("removing conntrack entries: %w", err)
	}
	return nil
}

// forgotten implements netlink.CustomConntrackFilter.
type forgotten map[Translation]bool

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (f forgotten) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	to, ok1 := netip.AddrFromSlice(flow.Forward.DstIP)
	by, ok2 := netip.AddrFromSlice(flow.Reverse.SrcIP)
	if !ok1 || !ok2 {
		return false
	}
	t := Translation{Frontend: to.Unmap(), Port: flow.Forward.DstPort, Endpoint: netip.AddrPortFrom(by.Unmap(), flow.Reverse.SrcPort)}
	if f[t] {
		return true
	}
	t.Frontend = netip.Addr{}
	return f[t]
}
