package gossip

import (
	"bytes"
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/hashicorp/go-msgpack/v2/codec"
)

const (
	maxLeaseSubnets = 16
	maxLeaseBytes   = 1024 // a lease travels in one datagram
	maxMACLen       = 20
)

// Endpoint is where a node's tunnel ends.
type Endpoint struct {
	Addr netip.Addr
	MAC  net.HardwareAddr
	MTU  int
	// Sequence orders the endpoints of one node. SetLease chooses it.
	Sequence uint64
}

// Lease is the subnets of a node and the endpoint at which they are reached.
// The two halves age separately: subnets by the revision of their grant, the
// endpoint by its sequence.
type Lease struct {
	NodeID        string
	Subnets       []netip.Prefix
	GrantRevision uint64
	Endpoint      Endpoint
}

func (l Lease) clone() Lease {
	l.Subnets = slices.Clone(l.Subnets)
	l.Endpoint.MAC = slices.Clone(l.Endpoint.MAC)
	return l
}

func (l Lease) equal(o Lease) bool {
	return l.NodeID == o.NodeID && compareGrant(l, o) == 0 && compareEndpoint(l.Endpoint, o.Endpoint) == 0
}

// mergeLease takes the newer half of each, so that every order of arrival gives
// the same lease. Halves of equal age and different content cannot come from one
// healthy node; any fixed choice makes replicas agree.
func mergeLease(a, b Lease) Lease {
	out := a
	if compareGrant(b, a) > 0 {
		out.Subnets, out.GrantRevision = b.Subnets, b.GrantRevision
	}
	if compareEndpoint(b.Endpoint, a.Endpoint) > 0 {
		out.Endpoint = b.Endpoint
	}
	return out
}

func compareGrant(a, b Lease) int {
	if c := cmp.Compare(a.GrantRevision, b.GrantRevision); c != 0 {
		return c
	}
	return slices.CompareFunc(a.Subnets, b.Subnets, comparePrefix)
}

func comparePrefix(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return cmp.Compare(a.Bits(), b.Bits())
}

func compareEndpoint(a, b Endpoint) int {
	if c := cmp.Compare(a.Sequence, b.Sequence); c != 0 {
		return c
	}
	return compareEndpointContent(a, b)
}

func compareEndpointContent(a, b Endpoint) int {
	if c := a.Addr.Compare(b.Addr); c != 0 {
		return c
	}
	if c := bytes.Compare(a.MAC, b.MAC); c != 0 {
		return c
	}
	return cmp.Compare(a.MTU, b.MTU)
}

func (l Lease) validate() error {
	switch {
	case !validID(l.NodeID):
		return fmt.Errorf("gossip: lease of the malformed node id %q", l.NodeID)
	case len(l.Subnets) > maxLeaseSubnets:
		return fmt.Errorf("gossip: lease with %d subnets, at most %d are possible", len(l.Subnets), maxLeaseSubnets)
	case len(l.Endpoint.MAC) > maxMACLen:
		return fmt.Errorf("gossip: lease with a hardware address of %d bytes", len(l.Endpoint.MAC))
	case l.Endpoint.MTU < 0 || l.Endpoint.MTU > 1<<16:
		return fmt.Errorf("gossip: lease with an MTU of %d", l.Endpoint.MTU)
	}
	for _, p := range l.Subnets {
		if !p.IsValid() || p != p.Masked() || p.Addr().Zone() != "" {
			return fmt.Errorf("gossip: lease with the malformed subnet %v", p)
		}
	}
	if l.Endpoint.Addr.Zone() != "" {
		return fmt.Errorf("gossip: lease with the zoned address %v", l.Endpoint.Addr)
	}
	return nil
}

// wireLease is a lease as it travels and as it lies on disk.
type wireLease struct {
	NodeID   string   `codec:"n" json:"node"`
	Subnets  []string `codec:"s" json:"subnets"`
	Grant    uint64   `codec:"g" json:"grantRevision"`
	Addr     string   `codec:"a" json:"address,omitempty"`
	MAC      []byte   `codec:"m" json:"mac,omitempty"`
	MTU      int      `codec:"u" json:"mtu,omitempty"`
	Sequence uint64   `codec:"q" json:"sequence"`
}

func (l Lease) wire() wireLease {
	w := wireLease{NodeID: l.NodeID, Grant: l.GrantRevision, MAC: l.Endpoint.MAC, MTU: l.Endpoint.MTU, Sequence: l.Endpoint.Sequence}
	for _, p := range l.Subnets {
		w.Subnets = append(w.Subnets, p.String())
	}
	if l.Endpoint.Addr.IsValid() {
		w.Addr = l.Endpoint.Addr.String()
	}
	return w
}

func (w wireLease) lease() (Lease, error) {
	l := Lease{NodeID: w.NodeID, GrantRevision: w.Grant, Endpoint: Endpoint{MTU: w.MTU, Sequence: w.Sequence}}
	if len(w.MAC) > 0 {
		l.Endpoint.MAC = w.MAC
	}
	for _, s := range w.Subnets {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return Lease{}, fmt.Errorf("gossip: lease of %q: %w", w.NodeID, err)
		}
		l.Subnets = append(l.Subnets, p)
	}
	if w.Addr != "" {
		a, err := netip.ParseAddr(w.Addr)
		if err != nil {
			return Lease{}, fmt.Errorf("gossip: lease of %q: %w", w.NodeID, err)
		}
		l.Endpoint.Addr = a
	}
	return l, l.validate()
}

// encodeLease makes a broadcast of one lease.
func encodeLease(cluster string, l Lease) ([]byte, error) {
	b, err := pack(pushState{Cluster: cluster, Leases: []wireLease{l.wire()}})
	if err == nil && len(b) > maxLeaseBytes {
		err = fmt.Errorf("gossip: the lease takes %d bytes, at most %d are possible", len(b), maxLeaseBytes)
	}
	return append([]byte{msgLease}, b...), err
}

func pack(v any) ([]byte, error) {
	var b []byte
	if err := codec.NewEncoderBytes(&b, &codec.MsgpackHandle{}).Encode(v); err != nil {
		return nil, fmt.Errorf("gossip: encode: %w", err)
	}
	return b, nil
}

func unpack(b []byte, v any) (err error) {
	h := &codec.MsgpackHandle{}
	h.MaxInitLen = 1024 // lengths in the input are claims, not allocations
	if err := codec.NewDecoderBytes(b, h).Decode(v); err != nil {
		return fmt.Errorf("gossip: decode: %w", err)
	}
	return nil
}
