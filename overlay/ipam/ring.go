package ipam

import (
	"maps"
	"net/netip"
	"time"
)

// ring is the order in which a subnet's addresses are given out: always the next
// one after the last given, so that an address comes back as late as possible.
type ring struct {
	Last netip.Addr `json:"last,omitzero"`
	// Released says since when an address rests, in Unix milliseconds. Entries
	// older than hold are dropped when the ring is next written.
	Released map[netip.Addr]int64 `json:"released,omitempty"`
}

func (r ring) clone() ring {
	r.Released = maps.Clone(r.Released)
	return r
}

func (r *ring) release(addr netip.Addr, now time.Time) {
	if r.Released == nil {
		r.Released = map[netip.Addr]int64{}
	}
	r.Released[addr] = now.UnixMilli()
}

// take picks the next address: the first after the last one given that is free
// and has rested; if none has, the one that has rested longest.
func (r *ring) take(subnet netip.Prefix, used map[netip.Addr]bool, now time.Time) (netip.Addr, bool) {
	floor := now.Add(-hold).UnixMilli()
	maps.DeleteFunc(r.Released, func(_ netip.Addr, t int64) bool { return t <= floor })
	first, last := Usable(subnet)
	if !first.IsValid() {
		return netip.Addr{}, false
	}
	start := first
	if r.Last.IsValid() && subnet.Contains(r.Last) && r.Last.Less(last) && !r.Last.Less(first) {
		start = r.Last.Next()
	}
	var oldest netip.Addr
	for addr := start; ; {
		if !used[addr] {
			t, resting := r.Released[addr]
			if !resting {
				r.Last = addr
				return addr, true
			}
			if !oldest.IsValid() || t < r.Released[oldest] {
				oldest = addr
			}
		}
		if addr == last {
			addr = first
		} else {
			addr = addr.Next()
		}
		if addr == start {
			break
		}
	}
	if !oldest.IsValid() {
		return netip.Addr{}, false
	}
	delete(r.Released, oldest)
	r.Last = oldest
	return oldest, true
}

// Gateway is the address of the node in a pod subnet: the first after the
// subnet's own.
func Gateway(subnet netip.Prefix) netip.Addr { return subnet.Masked().Addr().Next() }

// Usable returns the first and last address for pods: all but the subnet's own
// (the tunnel's), the gateway and, in IPv4, the last (broadcast). Both are zero
// when the subnet is too small to hold any.
func Usable(subnet netip.Prefix) (first, last netip.Addr) {
	subnet = subnet.Masked()
	host := subnet.Addr().BitLen() - subnet.Bits()
	if host < 2 {
		return netip.Addr{}, netip.Addr{}
	}
	first = Gateway(subnet).Next()
	b := subnet.Addr().AsSlice()
	for i := subnet.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	last, _ = netip.AddrFromSlice(b)
	if subnet.Addr().Is4() {
		last = last.Prev()
	}
	if last.Less(first) {
		return netip.Addr{}, netip.Addr{}
	}
	return first, last
}
