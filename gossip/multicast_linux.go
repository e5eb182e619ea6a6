package gossip

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// beaconGroup is administratively scoped (RFC 2365, local scope) and not routed:
// beacons go out with a TTL of 1.
var beaconGroup = netip.AddrFrom4([4]byte{239, 255, 79, 46})

const rejoinGroups = 30 * time.Second

// multicast is a Beacon on the IPv4 networks of this machine. One socket receives
// (several nodes on a machine may share the port), another sends, so that a beacon's
// source is a plain address of the interface it leaves by.
type multicast struct {
	group net.UDPAddr
	recv  *net.UDPConn
	send  *net.UDPConn
	mu    sync.Mutex // serialises Send, which sets the outgoing interface
}

// ListenBeacon opens a Beacon on the multicast group of Kontiki and the given UDP
// port, the ring's by convention (7946).
func ListenBeacon(port uint16) (Beacon, error) {
	group := netip.AddrPortFrom(beaconGroup, port)
	recv, err := listenGroup(group)
	if err != nil {
		return nil, fmt.Errorf("gossip: listen for beacons on %v: %w", group, err)
	}
	send, err := net.ListenUDP("udp4", &net.UDPAddr{})
	if err != nil {
		recv.Close()
		return nil, fmt.Errorf("gossip: socket for beacons: %w", err)
	}
	m := &multicast{group: *net.UDPAddrFromAddrPort(group), recv: recv, send: send}
	m.each(func(int) error { return nil })
	return m, nil
}

// listenGroup opens a socket that is bound to the group's address and so takes
// nothing that is sent to the node's own. Package net cannot: it binds a socket
// for a multicast address to the wildcard, which would take the ring's datagrams.
func listenGroup(group netip.AddrPort) (*net.UDPConn, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "beacon")
	defer f.Close() // FilePacketConn works on a copy
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		// Only what arrives on interfaces that this socket joined.
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, 0),
		unix.Bind(fd, &unix.SockaddrInet4{Port: int(group.Port()), Addr: group.Addr().As4()}))
	if err != nil {
		return nil, err
	}
	pc, err := net.FilePacketConn(f)
	if err != nil {
		return nil, err
	}
	return pc.(*net.UDPConn), nil
}

// each joins the group on every interface that can multicast, which are looked up
// every time since they come and go, and calls f for it.
func (m *multicast) each(f func(index int) error) error {
	ifis, err := net.Interfaces()
	if err != nil {
		return err
	}
	var errs []error
	reached := false
	for _, ifi := range ifis {
		if ifi.Flags&net.FlagUp == 0 || ifi.Flags&net.FlagMulticast == 0 || ifi.Flags&net.FlagLoopback != 0 || !hasIPv4(ifi) {
			continue
		}
		if err := m.join(ifi.Index); err != nil {
			errs = append(errs, fmt.Errorf("join on %s: %w", ifi.Name, err))
		}
		if err := f(ifi.Index); err != nil {
			errs = append(errs, fmt.Errorf("send on %s: %w", ifi.Name, err))
			continue
		}
		reached = true
	}
	if reached {
		return nil
	}
	return errors.Join(append(errs, errors.New("gossip: no interface took the beacon"))...)
}

func hasIPv4(ifi net.Interface) bool {
	addrs, err := ifi.Addrs()
	if err != nil {
		return false
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil {
			return true
		}
	}
	return false
}

func (m *multicast) join(index int) error {
	err := control(m.recv, func(fd int) error {
		return unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP,
			&unix.IPMreqn{Multiaddr: beaconGroup.As4(), Ifindex: int32(index)})
	})
	if errors.Is(err, unix.EADDRINUSE) {
		return nil // joined before
	}
	return err
}

func (m *multicast) Send(b []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.each(func(index int) error {
		err := control(m.send, func(fd int) error {
			return unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(index)})
		})
		if err != nil {
			return err
		}
		_, err = m.send.WriteToUDP(b, &m.group)
		return err
	})
}

func (m *multicast) Receive(b []byte) (int, netip.Addr, error) {
	for {
		m.recv.SetReadDeadline(time.Now().Add(rejoinGroups))
		n, from, err := m.recv.ReadFromUDPAddrPort(b)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			m.each(func(int) error { return nil }) // interfaces may have come
			continue
		}
		return n, from.Addr(), err
	}
}

func (m *multicast) Close() error { return errors.Join(m.recv.Close(), m.send.Close()) }

// listenRing opens the ring's socket. It does not share its port, but lets the
// beacon's socket, bound to the group, stand on the same port beside it, and does
// not take the group's datagrams itself.
func listenRing(addr netip.AddrPort) (net.PacketConn, error) {
	network := "udp"
	if addr.Addr().Is4() {
		network = "udp4"
	}
	pc, err := net.ListenUDP(network, net.UDPAddrFromAddrPort(addr))
	if err != nil {
		return nil, err
	}
	err = control(pc, func(fd int) error {
		// Set after bind, so that a second ring's socket on this port is refused.
		return errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
			unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, 0))
	})
	if err != nil {
		pc.Close()
		return nil, err
	}
	return pc, nil
}

func control(c *net.UDPConn, f func(fd int) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	err = raw.Control(func(fd uintptr) { ferr = f(int(fd)) })
	return errors.Join(err, ferr)
}
