package nft

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"kontiki/overlay/service"
)

// Every part of a concatenation fills whole registers of four bytes; numbers of
// the network are big-endian, the index is the machine's.

func addr4(a netip.Addr) []byte {
	if !a.IsValid() {
		return make([]byte, 4)
	}
	b := a.As4()
	return b[:]
}

func port4(p uint16) []byte { return []byte{byte(p >> 8), byte(p), 0, 0} }

func proto4(p service.Protocol) []byte { return []byte{byte(p), 0, 0, 0} }

func join(parts ...[]byte) []byte {
	var out []byte
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

func frontKey(f service.Frontend) []byte {
	if !f.Addr.IsValid() {
		return join(proto4(f.Protocol), port4(f.Port))
	}
	return join(addr4(f.Addr), proto4(f.Protocol), port4(f.Port))
}

func endpointElement(f service.Frontend, i int, ep netip.AddrPort) nftables.SetElement {
	index := binary.NativeEndian.AppendUint32(nil, uint32(i))
	return nftables.SetElement{
		Key: join(addr4(f.Addr), proto4(f.Protocol), port4(f.Port), index),
		Val: join(addr4(ep.Addr()), port4(ep.Port())),
	}
}

// endpointKey is endpointElement without the value, for deleting.
func endpointKey(f service.Frontend, i int) nftables.SetElement {
	e := endpointElement(f, i, netip.AddrPort{})
	return nftables.SetElement{Key: e.Key}
}

func stickyElement(f service.Frontend, ep netip.AddrPort) nftables.SetElement {
	return nftables.SetElement{Key: join(addr4(f.Addr), proto4(f.Protocol), port4(f.Port), addr4(ep.Addr()), port4(ep.Port()))}
}

func sourceElement(f service.Frontend, source netip.Prefix) nftables.SetElement {
	length := binary.NativeEndian.AppendUint32(nil, uint32(source.Bits()))
	return nftables.SetElement{Key: join(addr4(f.Addr), proto4(f.Protocol), port4(f.Port), addr4(source.Addr()), length)}
}

func verdict(chain string) *expr.Verdict {
	return &expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}
}
