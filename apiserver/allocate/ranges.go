package allocate

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"strconv"
)

// What an allocation can fail for; upstream's messages.
var (
	ErrFull      = errors.New("range is full")
	ErrAllocated = errors.New("provided IP is already allocated")
	// ErrPortAllocated is ErrAllocated for ports.
	ErrPortAllocated = errors.New("provided port is already allocated")
)

// IPs is a range of addresses. The lower part is left to those who choose an
// address themselves, and used only when the rest is full (KEP-3070).
type IPs struct {
	ledger *Ledger
	prefix netip.Prefix
	size   uint64 // usable addresses: without the first, and the last of IPv4
	offset uint64 // where the dynamic part begins
}

// maxRange bounds what is used of an IPv6 range.
const maxRange = 1 << 20

// NewIPs returns the range of prefix.
func NewIPs(l *Ledger, prefix netip.Prefix) *IPs {
	host := prefix.Addr().BitLen() - prefix.Bits()
	size := uint64(maxRange)
	if host <= 20 {
		size = 1<<host - 1
		if prefix.Addr().Is4() {
			size--
		}
	}
	return &IPs{ledger: l, prefix: prefix.Masked(), size: size, offset: band(size, 16, 256, 16)}
}

// band is how much of a range of n is left to static choices.
func band(n, low, high, step uint64) uint64 {
	if n < low {
		return 0
	}
	return min(max(n/step, low), high, n)
}

// IPKey is the ledger's key of an address.
func IPKey(ip netip.Addr) string { return Key("clusterips", ip.String()) }

// Prefix returns the range.
func (r *IPs) Prefix() netip.Prefix { return r.prefix }

// at returns the address with the given index; 0 is the first usable one.
func (r *IPs) at(i uint64) netip.Addr {
	bytes := r.prefix.Addr().As16()
	carry := i + 1
	for b := 15; b >= 0 && carry > 0; b-- {
		carry += uint64(bytes[b])
		bytes[b] = byte(carry)
		carry >>= 8
	}
	ip := netip.AddrFrom16(bytes)
	if r.prefix.Addr().Is4() {
		return ip.Unmap()
	}
	return ip
}

// Contains tells whether ip can be given to a Service.
func (r *IPs) Contains(ip netip.Addr) bool {
	return r.prefix.Contains(ip) && ip != r.prefix.Addr() && ip != r.last()
}

func (r *IPs) last() netip.Addr {
	if !r.prefix.Addr().Is4() {
		return netip.Addr{} // IPv6 has no broadcast address
	}
	return r.at(r.size)
}

// Free tells whether nobody holds ip, as far as this node's replica knows.
func (r *IPs) Free(ip netip.Addr) bool {
	_, held := r.ledger.Owner(IPKey(ip))
	return !held
}

// Pick returns an address that nobody holds, as far as this replica knows. The
// write that takes it decides.
func (r *IPs) Pick() (netip.Addr, error) {
	i, err := pick(r.size, r.offset, func(i uint64) bool { return r.Free(r.at(i)) })
	if err != nil {
		return netip.Addr{}, err
	}
	return r.at(i), nil
}

// Ports is a range of node ports, used as IPs are (KEP-3668).
type Ports struct {
	ledger    *Ledger
	low, high uint16
}

// NewPorts returns the range from low to high, both included.
func NewPorts(l *Ledger, low, high uint16) *Ports { return &Ports{l, low, high} }

// PortKey is the ledger's key of a node port.
func PortKey(port int32) string { return Key("nodeports", strconv.Itoa(int(port))) }

// Range returns the first and the last port.
func (r *Ports) Range() (low, high uint16) { return r.low, r.high }

// Contains tells whether port lies in the range.
func (r *Ports) Contains(port int32) bool { return port >= int32(r.low) && port <= int32(r.high) }

// Free tells whether nobody holds port, as far as this node's replica knows.
func (r *Ports) Free(port int32) bool {
	_, held := r.ledger.Owner(PortKey(port))
	return !held
}

// Pick returns a port that nobody holds and that is not in taken.
func (r *Ports) Pick(taken func(int32) bool) (int32, error) {
	size := uint64(r.high) - uint64(r.low) + 1
	i, err := pick(size, band(size, 16, 128, 32), func(i uint64) bool {
		port := int32(uint64(r.low) + i)
		return !taken(port) && r.Free(port)
	})
	return int32(uint64(r.low) + i), err
}

// pick walks the dynamic part from a random place, then the static part.
func pick(size, offset uint64, free func(uint64) bool) (uint64, error) {
	if n := size - offset; n > 0 {
		for i, start := uint64(0), rand.Uint64N(n); i < n; i++ {
			if at := offset + (start+i)%n; free(at) {
				return at, nil
			}
		}
	}
	for i := range offset {
		if free(i) {
			return i, nil
		}
	}
	return 0, ErrFull
}
