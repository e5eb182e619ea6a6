package overlay

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"kontiki/overlay/datapath"
)

// BenchmarkWays compares, in one run, pods of two nodes over this overlay, over a
// Service, and over a VXLAN built by hand between namespaces on the same nodes.
func BenchmarkWays(b *testing.B) {
	l := newLab(b, 2)
	from, to := l.nodes[0].pod(), l.nodes[1].pod()
	echoTCP(b, to.ns, to.uid, 80)
	sink(b, to.ns)
	l.expose("web", "10.43.0.20", 0, to)
	bareFrom, bareTo, bareAddr := bareTunnel(b, l)
	echoTCP(b, bareTo, "bare", 80)
	sink(b, bareTo)
	eventually(b, "the Service answers", func() error { _, _, err := askTCP(from.ns, "10.43.0.20:80"); return err })
	for _, way := range []struct {
		name string
		ns   netns.NsHandle
		addr netip.Addr
	}{{"bare", bareFrom, bareAddr}, {"kontiki", from.ns, to.addr}, {"service", from.ns, netip.MustParseAddr("10.43.0.20")}} {
		b.Run("latency/"+way.name, func(b *testing.B) { pingPong(b, way.ns, at(way.addr, 80)) })
		b.Run("connect/"+way.name, func(b *testing.B) {
			for b.Loop() {
				if _, _, err := askTCP(way.ns, at(way.addr, 80)); err != nil {
					b.Fatal(err)
				}
			}
		})
		if way.name != "service" { // which has no such port
			b.Run("throughput/"+way.name, func(b *testing.B) { pour(b, way.ns, at(way.addr, 81)) })
		}
	}
}

// sink serves port 81: what it gets it throws away, and says one byte at the end.
func sink(tb testing.TB, ns netns.NsHandle) {
	tb.Helper()
	var l net.Listener
	err := datapath.Within(ns, func() (err error) { l, err = net.Listen("tcp4", ":81"); return err })
	if err != nil {
		tb.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(io.Discard, c)
				c.Write([]byte{1})
			}()
		}
	}()
	tb.Cleanup(func() { l.Close() })
}

func pour(b *testing.B, ns netns.NsHandle, to string) {
	c, err := dialIn(ns, "tcp4", to, 5*time.Second)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	block := make([]byte, 1<<20)
	b.SetBytes(int64(len(block)))
	for b.Loop() {
		if _, err := c.Write(block); err != nil {
			b.Fatal(err)
		}
	}
	c.(*net.TCPConn).CloseWrite()
	if _, err := c.Read(block); err != nil {
		b.Fatal(err)
	}
}

func pingPong(b *testing.B, ns netns.NsHandle, to string) {
	c, err := dialIn(ns, "tcp4", to, 5*time.Second)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	var server, client string
	if _, err := fmt.Fscanf(c, "%s %s\n", &server, &client); err != nil {
		b.Fatal(err)
	}
	one := make([]byte, 1)
	for b.Loop() {
		if _, err := c.Write(one); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, one); err != nil {
			b.Fatal(err)
		}
	}
}

// bareTunnel builds, on the lab's first two nodes, a VXLAN device, a bridge and a
// namespace each.
func bareTunnel(tb testing.TB, l *lab) (from, to netns.NsHandle, addr netip.Addr) {
	tb.Helper()
	var pods []netns.NsHandle
	for i, n := range l.nodes[:2] {
		pod, h := newNS(tb), handle(tb, n.ns)
		inside := handle(tb, pod)
		eth, err := h.LinkByName("eth0")
		if err != nil {
			tb.Fatal(err)
		}
		named := func(name string) netlink.LinkAttrs {
			a := netlink.NewLinkAttrs()
			a.Name, a.MTU = name, 1450
			return a
		}
		if err := h.LinkAdd(&netlink.Bridge{LinkAttrs: named("bare0")}); err != nil {
			tb.Fatal(err)
		}
		br, err := h.LinkByName("bare0")
		if err != nil {
			tb.Fatal(err)
		}
		tunnel, port := named("bare.99"), named("bareport")
		tunnel.MasterIndex, port.MasterIndex = br.Attrs().Index, br.Attrs().Index
		other := l.nodes[1-i].addr
		err = errors.Join(
			h.LinkAdd(&netlink.Vxlan{LinkAttrs: tunnel, VxlanId: 99, VtepDevIndex: eth.Attrs().Index, SrcAddr: n.addr.AsSlice(), Group: other.AsSlice(), Port: 4789, Learning: true}),
			h.LinkAdd(&netlink.Veth{LinkAttrs: port, PeerName: "eth0", PeerNamespace: netlink.NsFd(pod), PeerMTU: 1450}),
		)
		if err != nil {
			tb.Fatal(err)
		}
		for _, name := range []string{"bare0", "bare.99", "bareport"} {
			link, err := h.LinkByName(name)
			if err == nil {
				err = h.LinkSetUp(link)
			}
			if err != nil {
				tb.Fatal(err)
			}
		}
		link, err := inside.LinkByName("eth0")
		if err != nil {
			tb.Fatal(err)
		}
		addr = netip.AddrFrom4([4]byte{10, 99, 0, byte(i + 1)})
		if err := errors.Join(inside.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(24, 32)}}), inside.LinkSetUp(link)); err != nil {
			tb.Fatal(err)
		}
		pods = append(pods, pod)
	}
	return pods[0], pods[1], addr
}

// BenchmarkAttach attaches and detaches one pod.
func BenchmarkAttach(b *testing.B) {
	l := newLab(b, 1)
	n, ns := l.nodes[0].net, newNS(b)
	var attaching time.Duration
	for i := 0; b.Loop(); i++ {
		uid, began := fmt.Sprint("bench-", i), time.Now()
		if _, err := n.Attach(b.Context(), PodAttachment{UID: uid, NetNS: path(ns)}); err != nil {
			b.Fatal(err)
		}
		attaching += time.Since(began)
		if err := n.Detach(b.Context(), uid); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(attaching.Microseconds())/float64(b.N), "µs-attach/op")
}

// BenchmarkDNS has pods ask the node's server, 16 questions under way: client and
// server share the machine.
func BenchmarkDNS(b *testing.B) {
	l := newLab(b, 1)
	p := l.nodes[0].pod()
	l.expose("web", "10.43.0.20", 0, p)
	packed, err := new(dns.Msg).SetQuestion("web.default.svc.cluster.local.", dns.TypeA).Pack()
	if err != nil {
		b.Fatal(err)
	}
	eventually(b, "DNS answers", func() error {
		c, err := dialIn(p.ns, "udp4", at(labDNS, 53), time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		return ask(c, packed)
	})
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		c, err := dialIn(p.ns, "udp4", at(labDNS, 53), time.Second)
		if err != nil {
			b.Error(err)
			return
		}
		defer c.Close()
		for pb.Next() {
			if err := ask(c, packed); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "answers/s")
}

func ask(c net.Conn, packed []byte) error {
	if _, err := c.Write(packed); err != nil {
		return err
	}
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	_, err := c.Read(make([]byte, 512))
	return err
}
