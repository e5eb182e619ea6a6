package gossip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// maxDatagram is more than the ring ever sends in one.
const maxDatagram = 64 << 10

// wire is the socket and the streams of a ring. They outlive memberlist, which is
// made anew when the node's address changes; wire hands what arrives to the
// transport of the day.
type wire struct {
	packets net.PacketConn
	streams Streams
	udpPort uint16
	figures *figures

	mu      sync.Mutex // protects current
	current *transport
}

func openWire(c *Config, f *figures) (*wire, error) {
	w := &wire{packets: c.Packets, streams: c.Ring, figures: f}
	if w.packets == nil {
		pc, err := listenRing(c.UDP)
		if err != nil {
			return nil, fmt.Errorf("gossip: listen for the ring on UDP %v (another node on this machine needs another port): %w", c.UDP, err)
		}
		w.packets = pc
	}
	ap, err := addrPortOf(w.packets.LocalAddr())
	if err != nil {
		w.packets.Close()
		return nil, fmt.Errorf("gossip: local address of the ring: %w", err)
	}
	w.udpPort = ap.Port()
	return w, nil
}

func (w *wire) close() {
	w.packets.Close()
	w.streams.Close()
}

func (w *wire) set(t *transport) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.current = t
}

func (w *wire) get() *transport {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.current
}

// readPackets runs until the socket is closed.
func (w *wire) readPackets() {
	buf := make([]byte, maxDatagram)
	for {
		n, from, err := w.packets.ReadFrom(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(10 * time.Millisecond) // an error of one datagram, such as ICMP unreachable
			continue
		}
		w.figures.packetsIn.Add(1)
		w.figures.packetBytesIn.Add(uint64(n))
		t := w.get()
		if t == nil || n == 0 {
			continue
		}
		p := &memberlist.Packet{Buf: append([]byte(nil), buf[:n]...), From: from, Timestamp: time.Now()}
		select {
		case t.packetCh <- p:
		case <-t.ctx.Done():
		default: // datagrams may be lost; blocking here would lose them later and later
		}
	}
}

// acceptStreams runs until the streams are closed.
func (w *wire) acceptStreams() {
	for {
		conn, err := w.streams.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(10 * time.Millisecond)
			continue
		}
		t := w.get()
		if t == nil {
			conn.Close()
			continue
		}
		tracked, ok := t.track(conn)
		if !ok {
			continue
		}
		select {
		case t.streamCh <- tracked:
		case <-t.ctx.Done():
			tracked.Close()
		}
	}
}

// transport is one memberlist's view of the wire.
type transport struct {
	w         *wire
	advertise netip.Addr
	// clusterPort returns the port of a member's streams by memberlist's name.
	clusterPort func(name string) (uint16, bool)
	packetCh    chan *memberlist.Packet
	streamCh    chan net.Conn
	ctx         context.Context // ends with Shutdown; memberlist's calls carry none
	cancel      context.CancelFunc

	mu    sync.Mutex // protects open
	open  map[net.Conn]struct{}
	ended bool
}

var _ memberlist.NodeAwareTransport = (*transport)(nil)

func newTransport(w *wire, advertise netip.Addr, clusterPort func(string) (uint16, bool)) *transport {
	t := &transport{w: w, advertise: advertise, clusterPort: clusterPort,
		packetCh: make(chan *memberlist.Packet, 512), streamCh: make(chan net.Conn), open: map[net.Conn]struct{}{}}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return t
}

func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return t.advertise.AsSlice(), int(t.w.udpPort), nil
}

func (t *transport) WriteTo(b []byte, addr string) (time.Time, error) {
	return t.WriteToAddress(b, memberlist.Address{Addr: addr})
}

func (t *transport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	ap, err := netip.ParseAddrPort(a.Addr)
	if err != nil {
		return time.Time{}, fmt.Errorf("gossip: datagram to %s: %w", a.String(), err)
	}
	t.w.figures.packetsOut.Add(1)
	t.w.figures.packetBytesOut.Add(uint64(len(b)))
	_, err = t.w.packets.WriteTo(b, net.UDPAddrFromAddrPort(ap))
	return time.Now(), err
}

func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packetCh }
func (t *transport) StreamCh() <-chan net.Conn           { return t.streamCh }

func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

// DialAddressTimeout opens a stream to a member, whose address carries the UDP
// port, or, without a name, to a cluster address that is to be joined.
func (t *transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	ap, err := netip.ParseAddrPort(a.Addr)
	if err != nil {
		return nil, fmt.Errorf("gossip: stream to %s: %w", a.String(), err)
	}
	if a.Name != "" {
		port, ok := t.clusterPort(a.Name)
		if !ok {
			return nil, fmt.Errorf("gossip: stream to %s: its cluster port is not known", a.Name)
		}
		ap = netip.AddrPortFrom(ap.Addr(), port)
	}
	ctx, cancel := context.WithTimeout(t.ctx, timeout)
	defer cancel()
	conn, err := t.w.streams.Dial(ctx, ap)
	if err != nil {
		return nil, err
	}
	tracked, ok := t.track(conn)
	if !ok {
		return nil, net.ErrClosed
	}
	return tracked, nil
}

// Shutdown ends this transport but leaves the wire to its successor.
func (t *transport) Shutdown() error {
	t.cancel()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
	for c := range t.open {
		c.Close()
	}
	t.open = nil
	return nil
}

// track makes Shutdown able to end a stream that memberlist waits on.
func (t *transport) track(conn net.Conn) (net.Conn, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		conn.Close()
		return nil, false
	}
	t.open[conn] = struct{}{}
	return &trackedConn{conn, t}, true
}

type trackedConn struct {
	net.Conn
	t *transport
}

func (c *trackedConn) Close() error {
	c.t.mu.Lock()
	delete(c.t.open, c.Conn)
	c.t.mu.Unlock()
	return c.Conn.Close()
}

func addrPortOf(a net.Addr) (netip.AddrPort, error) {
	if u, ok := a.(*net.UDPAddr); ok {
		ap := u.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), nil
	}
	return netip.ParseAddrPort(a.String())
}
