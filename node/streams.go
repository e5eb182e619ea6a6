package node

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"kontiki/gossip"
	"kontiki/internal/port"
)

// provenStreams carries a proven protocol between addresses. It is gossip.Streams.
type provenStreams struct {
	net.Listener
	port     *port.Port
	protocol string
}

func (s provenStreams) Dial(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	return s.port.DialProven(ctx, s.protocol, addr.String())
}

func (n *node) proven(protocol string) provenStreams {
	return provenStreams{n.port.Listener(protocol), n.port, protocol}
}

// memberStreams carries a member protocol between node ids, wherever they live
// now. It is raftstore.Streams.
type memberStreams struct {
	net.Listener
	port     *port.Port
	ring     *gossip.Ring
	protocol string
}

func (s memberStreams) Dial(ctx context.Context, nodeID string) (net.Conn, error) {
	addr, err := s.ring.Resolve(nodeID)
	if err != nil {
		return nil, fmt.Errorf("find node %s: %w", nodeID, err)
	}
	return s.port.DialMember(ctx, s.protocol, nodeID, addr.String())
}

func (n *node) member(protocol string) memberStreams {
	return memberStreams{n.port.Listener(protocol), n.port, n.ring, protocol}
}

// hostPort joins an address and a port.
func hostPort(addr netip.Addr, port uint16) string {
	return net.JoinHostPort(addr.String(), strconv.Itoa(int(port)))
}
