package allocate

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"strconv"

	corev1 "k8s.io/api/core/v1"
)

// What an allocation can fail for; upstream's messages.
var (
	ErrFull      = errors.New("range is full")
	ErrAllocated = errors.New("provided IP is already allocated")
	// ErrMismatchedNetwork is of an address that is in no range.
	ErrMismatchedNetwork = errors.New("the provided network does not match the current range")
	// ErrPortAllocated is ErrAllocated for ports.
	ErrPortAllocated = errors.New("provided port is already allocated")
)

// block is a range of addresses. The lower part is left to those who choose an
// address themselves, and used only when the rest is full (KEP-3070).
type block struct {
	prefix netip.Prefix
	size   uint64 // usable addresses: without the first, and the last of IPv4
	offset uint64 // where the dynamic part begins
}

// maxHostBits bounds what addresses are chosen from in a range of IPv6, so that
// indexes never overflow.
const maxHostBits = 62

func newBlock(prefix netip.Prefix) block {
	host := min(prefix.Addr().BitLen()-prefix.Bits(), maxHostBits)
	size := uint64(1)<<host - 1
	if prefix.Addr().Is4() && size > 0 {
		size--
	}
	return block{prefix: prefix.Masked(), size: size, offset: band(size, 16, 256, 16)}
}

// band is how much of a range of n is left to static choices.
func band(n, low, high, step uint64) uint64 {
	if n < low {
		return 0
	}
	return min(max(n/step, low), high, n)
}

// at returns the address with the given index; 0 is the first usable one.
func (b block) at(i uint64) netip.Addr {
	bytes := b.prefix.Addr().As16()
	carry := i + 1
	for at := 15; at >= 0 && carry > 0; at-- {
		carry += uint64(bytes[at])
		bytes[at] = byte(carry)
		carry >>= 8
	}
	ip := netip.AddrFrom16(bytes)
	if b.prefix.Addr().Is4() {
		return ip.Unmap()
	}
	return ip
}

// contains tells whether ip can be given to a Service.
func (b block) contains(ip netip.Addr) bool {
	return b.prefix.Contains(ip) && ip != b.prefix.Addr() && (!ip.Is4() || b.size > 0 && ip != b.at(b.size))
}

// IPs are the addresses of one family that Services get: those of every ServiceCIDR
// that is in force.
type IPs struct {
	ledger *Ledger
	family corev1.IPFamily
}

// NewIPs returns the addresses of a family.
func NewIPs(l *Ledger, family corev1.IPFamily) *IPs { return &IPs{l, family} }

// Family returns the address family.
func (r *IPs) Family() corev1.IPFamily { return r.family }

// Check tells why ip cannot be given to a Service, as far as this node's replica
// knows: ErrMismatchedNetwork or ErrAllocated.
func (r *IPs) Check(ctx context.Context, ip netip.Addr) error {
	view := r.ledger.View()
	if _, ok := r.ledger.sourceOf(ctx, view, ip); !ok || Family(ip) != r.family {
		return ErrMismatchedNetwork
	}
	if !r.ledger.free(view, ip) {
		return ErrAllocated
	}
	return nil
}

// Pick returns an address that nobody holds, as far as this replica knows. The
// write that takes it decides. A range is used once those before it are full.
func (r *IPs) Pick(ctx context.Context) (netip.Addr, error) {
	view := r.ledger.View()
	for _, from := range r.ledger.sources(ctx, view) {
		for _, b := range from.blocks {
			if Family(b.prefix.Addr()) != r.family {
				continue
			}
			if i, err := pick(b.size, b.offset, func(i uint64) bool { return r.ledger.free(view, b.at(i)) }); err == nil {
				return b.at(i), nil
			}
		}
	}
	return netip.Addr{}, ErrFull
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
