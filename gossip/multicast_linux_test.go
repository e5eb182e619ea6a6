package gossip

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"
)

// TestMulticastBeacon sends from one socket of this machine to another, beside a
// ring's socket on the same port.
func TestMulticastBeacon(t *testing.T) {
	ring, err := listenRing(netip.MustParseAddrPort("0.0.0.0:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer ring.Close()
	port := uint16(ring.LocalAddr().(*net.UDPAddr).Port)
	if second, err := listenRing(netip.AddrPortFrom(netip.IPv4Unspecified(), port)); err == nil {
		second.Close()
		t.Error("two rings share a port")
	}
	a, err := ListenBeacon(port)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := ListenBeacon(port)
	if err != nil {
		t.Fatal(err)
	}
	toRing(t, ring)
	if err := a.Send([]byte("hello")); err != nil {
		t.Skipf("needs an interface that takes multicast: %v", err)
	}
	buf := make([]byte, 100)
	timeout := time.AfterFunc(10*time.Second, func() { b.Close() })
	defer timeout.Stop()
	n, from, err := b.Receive(buf)
	if err != nil {
		t.Fatalf("waited 10 s in vain for a beacon: %v", err)
	}
	if string(buf[:n]) != "hello" || !from.Is4() || from.IsUnspecified() {
		t.Errorf("received %q from %v", buf[:n], from)
	}
	b.Close()
	if _, _, err := b.Receive(buf); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Receive after Close: %v", err)
	}
	ring.SetReadDeadline(time.Now())
	if n, _, err := ring.ReadFrom(buf); err == nil {
		t.Errorf("the ring's socket took the beacon, too: %q", buf[:n])
	}
}

// toRing expects that what is sent to the port's own address still reaches the
// ring, with beacons' sockets on the same port.
func toRing(t *testing.T, ring net.PacketConn) {
	t.Helper()
	to := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: ring.LocalAddr().(*net.UDPAddr).Port}
	conn, err := net.DialUDP("udp4", nil, to)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	ring.SetReadDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 100)
	if n, _, err := ring.ReadFrom(buf); err != nil || string(buf[:n]) != "ping" {
		t.Fatalf("the ring received %q, %v; want what was sent to it", buf[:n], err)
	}
}
