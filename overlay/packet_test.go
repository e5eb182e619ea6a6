package overlay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"

	"kontiki/overlay/datapath"
)

// TestPodsDoNotReachTheNodesLoopback: so that node ports answer at 127.0.0.1, the
// pod network's devices take packets for it. What a pod puts on the wire with that
// destination must not get to what listens there all the same.
func TestPodsDoNotReachTheNodesLoopback(t *testing.T) {
	l := newLab(t, 1)
	node, p := l.nodes[0], l.nodes[0].pod()
	var c net.PacketConn
	err := datapath.Within(node.ns, func() (err error) { c, err = net.ListenPacket("udp4", ":9999"); return err })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	bridge, err := handle(t, node.ns).LinkByName(datapath.BridgeName)
	if err != nil {
		t.Fatal(err)
	}
	send := func(to, what string) {
		t.Helper()
		sendFrame(t, p.ns, bridge.Attrs().HardwareAddr, datagram(p.addr, netip.MustParseAddr(to), 9999, what))
	}
	buf := make([]byte, 100)
	receive := func(patience time.Duration) (string, error) {
		c.SetReadDeadline(time.Now().Add(patience))
		n, _, err := c.ReadFrom(buf)
		return string(buf[:n]), err
	}
	eventually(t, "what a pod sends to its gateway arrives", func() error {
		send("10.42.1.1", "first")
		_, err := receive(time.Second)
		return err
	})
	for _, to := range []string{"127.0.0.1", "127.9.9.9"} {
		send(to, "to "+to)
	}
	send("10.42.1.1", "last")
	// Packets keep their order: when the last is here, the others are not coming.
	for {
		got, err := receive(patience)
		if err != nil {
			t.Fatal(err)
		}
		switch got {
		case "first":
		case "last":
			return
		default:
			t.Errorf("the node's loopback got what a pod sent %s", got)
		}
	}
}

// datagram is an IPv4 packet with one UDP datagram, without a checksum of it.
func datagram(from, to netip.Addr, port uint16, payload string) []byte {
	const headers = ipv4.HeaderLen + 8
	h := ipv4.Header{Version: 4, Len: ipv4.HeaderLen, TotalLen: headers + len(payload), TTL: 64, Protocol: unix.IPPROTO_UDP, Src: from.AsSlice(), Dst: to.AsSlice()}
	raw, err := h.Marshal()
	if err != nil {
		panic("overlay: a header of plain fields does not encode: " + err.Error())
	}
	h.Checksum = int(checksum(raw))
	if raw, err = h.Marshal(); err != nil {
		panic("overlay: a header of plain fields does not encode: " + err.Error())
	}
	raw = binary.BigEndian.AppendUint16(raw, 40_000)
	raw = binary.BigEndian.AppendUint16(raw, port)
	raw = binary.BigEndian.AppendUint16(raw, uint16(8+len(payload)))
	raw = binary.BigEndian.AppendUint16(raw, 0)
	return append(raw, payload...)
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	for sum>>16 > 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// sendFrame puts a packet on a pod's eth0 as it is, past the pod's own routing.
func sendFrame(t *testing.T, ns netns.NsHandle, to net.HardwareAddr, packet []byte) {
	t.Helper()
	eth, err := handle(t, ns).LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	ip := uint16(unix.ETH_P_IP<<8&0xff00 | unix.ETH_P_IP>>8)
	err = datapath.Within(ns, func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		at := &unix.SockaddrLinklayer{Protocol: ip, Ifindex: eth.Attrs().Index, Halen: 6}
		copy(at.Addr[:], to)
		return unix.Sendto(fd, packet, 0, at)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestSCTP has an association begin through a Service, written by hand, since not
// every kernel has sockets of SCTP: INIT arrives at the endpoint's port, and its
// acknowledgement comes back from the Service's address.
func TestSCTP(t *testing.T) {
	l := newLab(t, 2)
	err := datapath.Within(l.nodes[0].ns, func() error {
		_, err := os.Stat("/proc/sys/net/netfilter/nf_conntrack_sctp_timeout_established")
		return err
	})
	if err != nil {
		t.Skipf("needs a kernel that tracks SCTP (CONFIG_NF_CT_PROTO_SCTP): %v", err)
	}
	client, server := l.nodes[0].pod(), l.nodes[1].pod()
	slice := l.expose("sctp", "10.43.0.40", 0, server)
	l.changeService("sctp", func(s *corev1.Service) {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "sctp", Port: 132, Protocol: corev1.ProtocolSCTP})
	})
	slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: ptr.To("sctp"), Port: ptr.To[int32](8132), Protocol: ptr.To(corev1.ProtocolSCTP)})
	l.update(slice)
	in, out := rawSCTP(t, server.ns), rawSCTP(t, client.ns)
	eventually(t, "INIT arrives at the endpoint's port and is acknowledged by the Service", func() error {
		const clientTag, serverTag = 0x11223344, 0x55667788
		if _, err := out.WriteTo(sctpPacket(5000, 132, 0, sctpInit, clientTag), &net.IPAddr{IP: net.IPv4(10, 43, 0, 40)}); err != nil {
			return err
		}
		from, src, dst, err := readSCTP(in, sctpInit)
		if err != nil {
			return err
		}
		if from != client.addr || src != 5000 || dst != 8132 {
			return fmt.Errorf("the endpoint got INIT from %s:%d at port %d", from, src, dst)
		}
		if _, err := in.WriteTo(sctpPacket(8132, 5000, clientTag, sctpInitAck, serverTag), &net.IPAddr{IP: client.addr.AsSlice()}); err != nil {
			return err
		}
		from, src, dst, err = readSCTP(out, sctpInitAck)
		if err == nil && (from != netip.MustParseAddr("10.43.0.40") || src != 132 || dst != 5000) {
			err = fmt.Errorf("the client got the acknowledgement from %s:%d at port %d", from, src, dst)
		}
		return err
	})
}

func rawSCTP(t *testing.T, ns netns.NsHandle) (c net.PacketConn) {
	t.Helper()
	err := datapath.Within(ns, func() (err error) { c, err = net.ListenPacket("ip4:132", "0.0.0.0"); return err })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// Chunk types of RFC 9260.
const (
	sctpInit    = 1
	sctpInitAck = 2
)

// sctpPacket has one chunk, INIT or its acknowledgement.
func sctpPacket(src, dst uint16, verification uint32, chunk byte, tag uint32) []byte {
	b := binary.BigEndian.AppendUint16(nil, src)
	b = binary.BigEndian.AppendUint16(b, dst)
	b = binary.BigEndian.AppendUint32(b, verification)
	b = append(b, 0, 0, 0, 0) // CRC32c, see below
	b = append(b, chunk, 0, 0, 20)
	b = binary.BigEndian.AppendUint32(b, tag)
	b = binary.BigEndian.AppendUint32(b, 1<<16) // window
	b = append(b, 0, 1, 0, 1)                   // streams
	b = binary.BigEndian.AppendUint32(b, 1)     // first TSN
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// readSCTP waits for a packet with a chunk of a kind and a right checksum.
func readSCTP(c net.PacketConn, chunk byte) (from netip.Addr, src, dst uint16, err error) {
	buf := make([]byte, 1500)
	c.SetReadDeadline(time.Now().Add(time.Second))
	for {
		n, addr, err := c.ReadFrom(buf)
		if err != nil {
			return from, 0, 0, err
		}
		b := buf[:n]
		if len(b) < 16 || b[12] != chunk {
			continue
		}
		sum := binary.LittleEndian.Uint32(b[8:])
		binary.LittleEndian.PutUint32(b[8:], 0)
		if sum != crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) {
			return from, 0, 0, errors.New("the checksum is wrong")
		}
		from, _ = netip.AddrFromSlice(addr.(*net.IPAddr).IP)
		return from.Unmap(), binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]), nil
	}
}

// TestTheTunnelIsNotTracked: conntrack does not see the tunnel's own packets, and
// does see those of pods to the same port of others.
func TestTheTunnelIsNotTracked(t *testing.T) {
	l := newLab(t, 2)
	a, b := l.nodes[0].pod(), l.nodes[1].pod()
	outside, outsideAddr := l.host(99)
	echoUDP(t, b.ns, b.uid, TunnelPort)
	echoUDP(t, outside, "outside", TunnelPort)
	slice := l.expose("tunnel", "10.43.0.50", 0, b)
	l.changeService("tunnel", func(s *corev1.Service) { s.Spec.Ports[1].Port = TunnelPort })
	slice.Ports[1].Port = ptr.To[int32](TunnelPort)
	l.update(slice)
	eventually(t, "the node reaches a Service at the tunnel's port", answered(func() (string, error) {
		s, _, _, err := askUDP(l.nodes[0].ns, at(netip.MustParseAddr("10.43.0.50"), TunnelPort), 10, false)
		return s, err
	}, b.uid))
	if s, _, _, err := askUDP(a.ns, at(b.addr, TunnelPort), 10, false); err != nil || s != b.uid {
		t.Errorf("another pod at the tunnel's port: %q, %v", s, err)
	}
	if s, seen, _, err := askUDP(a.ns, at(outsideAddr, TunnelPort), 10, false); err != nil || s != "outside" || seen != l.nodes[0].addr.String() {
		t.Errorf("the outside at the tunnel's port: %q saw %q, %v", s, seen, err)
	}
	for _, n := range l.nodes {
		h, err := netlink.NewHandleAt(n.ns, unix.NETLINK_NETFILTER)
		if err != nil {
			t.Fatal(err)
		}
		flows, err := h.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
		h.Close()
		if err != nil || len(flows) == 0 {
			t.Fatalf("%d connections, %v", len(flows), err)
		}
		for _, f := range flows {
			to, _ := netip.AddrFromSlice(f.Forward.DstIP)
			if f.Forward.DstPort == TunnelPort && (to.Unmap() == l.nodes[0].addr || to.Unmap() == l.nodes[1].addr) {
				t.Errorf("%s tracks its tunnel: %v", n.name, f)
			}
		}
	}
}
