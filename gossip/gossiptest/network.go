// Package gossiptest gives tests a network in memory: datagrams, streams and
// beacons between hosts, with cuts per direction, in place of sockets. Everything
// blocks on channels only, so it works inside testing/synctest bubbles.
//
// It is for tests alone; production packages do not import it. All methods may be
// called from any goroutine.
package gossiptest

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// dialPatience is how long a connection is tried, as the cluster port does.
const dialPatience = 1500 * time.Millisecond

// Network is a set of hosts. The zero value is not usable; see New.
type Network struct {
	mu        sync.Mutex // protects what follows
	packets   map[netip.AddrPort]*packetConn
	listeners map[listenKey]*streams
	beacons   map[*beacon]struct{}
	cut       map[[2]netip.Addr]bool
	conns     map[*conn]struct{}
}

type listenKey struct {
	proto string
	addr  netip.AddrPort
}

// New returns an empty network in which everybody reaches everybody.
func New() *Network {
	return &Network{packets: map[netip.AddrPort]*packetConn{}, listeners: map[listenKey]*streams{},
		beacons: map[*beacon]struct{}{}, cut: map[[2]netip.Addr]bool{}, conns: map[*conn]struct{}{}}
}

// Cut stops what goes from one host to another, also streams that are open.
func (n *Network) Cut(from, to netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[[2]netip.Addr{from, to}] = true
	for c := range n.conns {
		if c.local == from && c.remote == to || c.local == to && c.remote == from {
			c.Conn.Close()
		}
	}
}

// Split cuts all traffic between two groups.
func (n *Network) Split(a, b []netip.Addr) {
	for _, x := range a {
		for _, y := range b {
			n.Cut(x, y)
			n.Cut(y, x)
		}
	}
}

// Heal undoes all cuts.
func (n *Network) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.cut)
}

func (n *Network) passesLocked(from, to netip.Addr) bool { return !n.cut[[2]netip.Addr{from, to}] }

// Host is a machine with one address, which may change.
type Host struct {
	n    *Network
	mu   sync.Mutex // protects addr
	addr netip.Addr
}

// Host makes a host.
func (n *Network) Host(addr netip.Addr) *Host { return &Host{n: n, addr: addr} }

// Addr is the host's address now.
func (h *Host) Addr() netip.Addr {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.addr
}

// Readdress gives the host another address, which its open sockets follow.
func (h *Host) Readdress(addr netip.Addr) {
	h.n.mu.Lock()
	defer h.n.mu.Unlock()
	h.mu.Lock()
	old := h.addr
	h.addr = addr
	h.mu.Unlock()
	for ap, p := range h.n.packets {
		if p.host == h {
			delete(h.n.packets, ap)
			h.n.packets[netip.AddrPortFrom(addr, ap.Port())] = p
		}
	}
	for k, s := range h.n.listeners {
		if s.host == h {
			delete(h.n.listeners, k)
			h.n.listeners[listenKey{k.proto, netip.AddrPortFrom(addr, k.addr.Port())}] = s
		}
	}
	for c := range h.n.conns {
		if c.local == old || c.remote == old {
			c.Conn.Close()
		}
	}
}

// Packets opens a datagram socket.
func (h *Host) Packets(port uint16) net.PacketConn {
	p := &packetConn{host: h, port: port, in: make(chan packet, 1024), done: make(chan struct{})}
	h.n.mu.Lock()
	defer h.n.mu.Unlock()
	h.n.packets[netip.AddrPortFrom(h.Addr(), port)] = p
	return p
}

type packet struct {
	b    []byte
	from netip.AddrPort
}

type packetConn struct {
	host *Host
	port uint16
	in   chan packet
	done chan struct{}
	once sync.Once
}

func (p *packetConn) local() netip.AddrPort { return netip.AddrPortFrom(p.host.Addr(), p.port) }
func (p *packetConn) LocalAddr() net.Addr   { return net.UDPAddrFromAddrPort(p.local()) }

func (p *packetConn) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case <-p.done:
		return 0, nil, net.ErrClosed
	default:
	}
	select {
	case in := <-p.in:
		return copy(b, in.b), net.UDPAddrFromAddrPort(in.from), nil
	case <-p.done:
		return 0, nil, net.ErrClosed
	}
}

func (p *packetConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	select {
	case <-p.done:
		return 0, net.ErrClosed
	default:
	}
	to := addr.(*net.UDPAddr).AddrPort()
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	n := p.host.n
	n.mu.Lock()
	defer n.mu.Unlock()
	dst := n.packets[to]
	if dst == nil || !n.passesLocked(p.host.Addr(), to.Addr()) {
		return len(b), nil
	}
	select {
	case dst.in <- packet{append([]byte(nil), b...), p.local()}:
	default:
	}
	return len(b), nil
}

func (p *packetConn) Close() error {
	p.once.Do(func() {
		close(p.done)
		n := p.host.n
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.packets[p.local()] == p {
			delete(n.packets, p.local())
		}
	})
	return nil
}

func (p *packetConn) SetDeadline(time.Time) error      { return os.ErrNoDeadline }
func (p *packetConn) SetReadDeadline(time.Time) error  { return os.ErrNoDeadline }
func (p *packetConn) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }

// Streams opens a listener and dialer for one protocol of a port. It fits
// gossip.Streams.
func (h *Host) Streams(proto string, port uint16) *Streams {
	s := &streams{host: h, proto: proto, port: port, in: make(chan net.Conn), done: make(chan struct{})}
	h.n.mu.Lock()
	defer h.n.mu.Unlock()
	h.n.listeners[listenKey{proto, netip.AddrPortFrom(h.Addr(), port)}] = s
	return &Streams{s}
}

// Streams carries one protocol of one host.
type Streams struct{ *streams }

type streams struct {
	host  *Host
	proto string
	port  uint16
	in    chan net.Conn
	done  chan struct{}
	once  sync.Once
}

// Accept returns the next connection.
func (s *streams) Accept() (net.Conn, error) {
	select {
	case c := <-s.in:
		return c, nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (s *streams) Close() error {
	s.once.Do(func() {
		close(s.done)
		n := s.host.n
		n.mu.Lock()
		defer n.mu.Unlock()
		k := listenKey{s.proto, netip.AddrPortFrom(s.host.Addr(), s.port)}
		if n.listeners[k] == s {
			delete(n.listeners, k)
		}
	})
	return nil
}

// Dial connects to a host's listener of the same protocol. Where nothing listens
// it is refused; across a cut it gives up after dialPatience, or with ctx.
func (s *streams) Dial(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	n := s.host.n
	from := s.host.Addr()
	n.mu.Lock()
	dst := n.listeners[listenKey{s.proto, addr}]
	pass := n.passesLocked(from, addr.Addr()) && n.passesLocked(addr.Addr(), from)
	n.mu.Unlock()
	if !pass {
		ctx, cancel := context.WithTimeout(ctx, dialPatience)
		defer cancel()
		<-ctx.Done()
		return nil, fmt.Errorf("dial %v: %w", addr, ctx.Err())
	}
	if dst == nil {
		return nil, fmt.Errorf("dial %v: connection refused", addr)
	}
	a, b := net.Pipe()
	near, far := n.conn(a, from, addr.Addr()), n.conn(b, addr.Addr(), from)
	select {
	case dst.in <- far:
		return near, nil
	case <-dst.done:
	case <-ctx.Done():
	}
	near.Close()
	far.Close()
	return nil, fmt.Errorf("dial %v: connection refused", addr)
}

type conn struct {
	net.Conn
	n             *Network
	local, remote netip.Addr
}

func (n *Network) conn(c net.Conn, local, remote netip.Addr) *conn {
	out := &conn{c, n, local, remote}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.conns[out] = struct{}{}
	return out
}

func (c *conn) Close() error {
	c.n.mu.Lock()
	delete(c.n.conns, c)
	c.n.mu.Unlock()
	return c.Conn.Close()
}

// Beacon opens a beacon that reaches every host that is not cut off. It fits
// gossip.Beacon.
func (h *Host) Beacon() *Beacon {
	b := &beacon{host: h, in: make(chan beaconPacket, 256), done: make(chan struct{})}
	h.n.mu.Lock()
	defer h.n.mu.Unlock()
	h.n.beacons[b] = struct{}{}
	return &Beacon{b}
}

// Beacon is one host's beacon.
type Beacon struct{ *beacon }

type beaconPacket struct {
	b    []byte
	from netip.Addr
}

type beacon struct {
	host *Host
	in   chan beaconPacket
	done chan struct{}
	once sync.Once
}

// Send sends to all others.
func (b *beacon) Send(p []byte) error {
	n := b.host.n
	from := b.host.Addr()
	n.mu.Lock()
	defer n.mu.Unlock()
	for o := range n.beacons {
		if o == b || !n.passesLocked(from, o.host.Addr()) {
			continue
		}
		select {
		case o.in <- beaconPacket{append([]byte(nil), p...), from}:
		default:
		}
	}
	return nil
}

// Receive returns the next datagram.
func (b *beacon) Receive(p []byte) (int, netip.Addr, error) {
	select {
	case in := <-b.in:
		return copy(p, in.b), in.from, nil
	case <-b.done:
		return 0, netip.Addr{}, net.ErrClosed
	}
}

// Close ends Receive.
func (b *beacon) Close() error {
	b.once.Do(func() {
		close(b.done)
		b.host.n.mu.Lock()
		defer b.host.n.mu.Unlock()
		delete(b.host.n.beacons, b)
	})
	return nil
}
