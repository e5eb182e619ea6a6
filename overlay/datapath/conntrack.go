package datapath

// A UDP client that goes on sending from one port keeps what conntrack knows of it
// for ever: a translation to an endpoint that is gone, or none, if it began before
// there were endpoints. A TCP connection to an endpoint that is gone breaks, and the next
// one is translated anew, unless it comes from the port of one that was never answered:
// for two minutes conntrack takes it for a repetition of that, and sends it to the same
// endpoint. Who connects often comes round to such a port.

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kontiki/internal/dump"
)

// Frontend is what clients of a Service speak to.
type Frontend struct {
	Protocol uint8      // of IANA's registry; UDP or TCP
	Addr     netip.Addr // zero: any address of the node
	Port     uint16
}

// Forget removes the conntrack entries of datagrams to these frontends that are
// not answered by one of the endpoints given, so that the next datagram is balanced
// anew; and those of TCP connections that wait for their first answer. Where there are
// no endpoints, entries that are not translated stay: nobody else would get the next
// packet. It reads the whole conntrack table.
func (k *Kernel) Forget(now map[Frontend][]netip.AddrPort) error {
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

// tcpSynSent is TCP_CONNTRACK_SYN_SENT of linux/netfilter/nf_conntrack_tcp.h: nothing has
// been answered yet.
const tcpSynSent = 1

// stale finds the entries that Forget removes. It is netlink.CustomConntrackFilter.
type stale struct {
	now map[Frontend][]netip.AddrPort
	own map[netip.Addr]bool // addresses of the node
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (f stale) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	protocol := flow.Forward.Protocol
	if tcp, ok := flow.ProtoInfo.(*netlink.ProtoInfoTCP); protocol != unix.IPPROTO_UDP && (!ok || tcp.State != tcpSynSent) {
		return false
	}
	to, ok1 := netip.AddrFromSlice(flow.Forward.DstIP)
	by, ok2 := netip.AddrFromSlice(flow.Reverse.SrcIP)
	if !ok1 || !ok2 {
		return false
	}
	sent := netip.AddrPortFrom(to.Unmap(), flow.Forward.DstPort)
	answers := netip.AddrPortFrom(by.Unmap(), flow.Reverse.SrcPort)
	endpoints, ok := f.now[Frontend{Protocol: protocol, Addr: sent.Addr(), Port: sent.Port()}]
	if !ok && (f.own[sent.Addr()] || sent.Addr().IsLoopback()) {
		endpoints, ok = f.now[Frontend{Protocol: protocol, Port: sent.Port()}]
	}
	if !ok || slices.Contains(endpoints, answers) {
		return false
	}
	return len(endpoints) > 0 || answers != sent
}
