package overlay

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"kontiki/overlay/datapath"
	"kontiki/overlay/nft"
	"kontiki/overlay/service"
)

// way is one of the paths that are measured beside each other.
type way struct {
	name string
	ns   netns.NsHandle // of the client
	addr netip.Addr
}

// turns is how often all ways are measured, one after the other; throughput more
// often, which depends most on where the scheduler puts both ends.
const turns, throughputTurns = 41, 61

// inTurns measures all ways in turns, so that what else the machine does happens to
// each of them. A way's figure is the median of its ratio to the first way in the
// same turn, times the first way's median.
func inTurns(b *testing.B, turns int, ways []way, measure func(way) float64) map[string]float64 {
	b.Helper()
	ratios, first := make([][]float64, len(ways)), []float64{}
	for turn := range turns {
		got := make([]float64, len(ways))
		for i := range ways {
			at := (i + turn) % len(ways)
			got[at] = measure(ways[at])
		}
		first = append(first, got[0])
		for i, v := range got {
			ratios[i] = append(ratios[i], v/got[0])
		}
	}
	out := map[string]float64{}
	for i, w := range ways {
		out[w.name] = median(ratios[i]) * median(first)
	}
	return out
}

func median(list []float64) float64 {
	slices.Sort(list)
	return list[len(list)/2]
}

// report makes a benchmark of a figure that was measured already.
func report(b *testing.B, name string, value float64, unit string) {
	b.Run(name, func(b *testing.B) {
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(value, unit)
	})
}

// BenchmarkWays compares, in one run, pods of two nodes over this overlay, over a
// Service, and over a VXLAN built by hand between namespaces on the same nodes.
func BenchmarkWays(b *testing.B) {
	l := newLab(b, 2)
	from, to := l.nodes[0].pod(), l.nodes[1].pod()
	echoTCP(b, to.ns, to.uid, 80)
	sink(b, to.ns)
	slice := l.expose("web", "10.43.0.20", 0, to)
	l.changeService("web", func(s *corev1.Service) {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "sink", Port: 81, Protocol: corev1.ProtocolTCP})
	})
	slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: ptr.To("sink"), Port: ptr.To[int32](81), Protocol: ptr.To(corev1.ProtocolTCP)})
	l.update(slice)
	bareFrom, bareTo, bareAddr := bareTunnel(b, l)
	echoTCP(b, bareTo, "bare", 80)
	sink(b, bareTo)
	ways := []way{{"bare", bareFrom, bareAddr}, {"kontiki", from.ns, to.addr}, {"service", from.ns, netip.MustParseAddr("10.43.0.20")}}
	for _, w := range ways {
		for _, port := range []uint16{80, 81} {
			eventually(b, w.name+" answers", func() error {
				c, err := dialIn(w.ns, "tcp4", at(w.addr, port), time.Second)
				if err == nil {
					c.Close()
				}
				return err
			})
		}
	}
	throughput := inTurns(b, throughputTurns, ways, func(w way) float64 { return pour(b, w.ns, at(w.addr, 81)) })
	latency := inTurns(b, turns, ways, func(w way) float64 { return pingPong(b, w.ns, at(w.addr, 80)) })
	connect := inTurns(b, turns, ways, func(w way) float64 { return connects(b, w.ns, at(w.addr, 80)) })
	for _, w := range ways {
		report(b, "throughput/"+w.name, throughput[w.name], "MB/s")
		report(b, "latency/"+w.name, latency[w.name], "µs")
		report(b, "connect/"+w.name, connect[w.name], "µs")
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

// pour sends for a moment and returns how many MB arrived a second.
func pour(b *testing.B, ns netns.NsHandle, to string) float64 {
	c, err := dialIn(ns, "tcp4", to, 5*time.Second)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	block, sent, began := make([]byte, 1<<18), 0, time.Now()
	for time.Since(began) < 120*time.Millisecond {
		n, err := c.Write(block)
		if err != nil {
			b.Fatal(err)
		}
		sent += n
	}
	c.(*net.TCPConn).CloseWrite()
	if _, err := c.Read(block); err != nil {
		b.Fatal(err)
	}
	return float64(sent) / 1e6 / time.Since(began).Seconds()
}

// pingPong returns how many microseconds a byte takes to go and come back.
func pingPong(b *testing.B, ns netns.NsHandle, to string) float64 {
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
	one, took := make([]byte, 1), []float64{}
	for range 300 {
		began := time.Now()
		if _, err := c.Write(one); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, one); err != nil {
			b.Fatal(err)
		}
		took = append(took, float64(time.Since(began).Nanoseconds())/1e3)
	}
	return median(took)
}

// connects returns how many microseconds it takes until a connection stands.
func connects(b *testing.B, ns netns.NsHandle, to string) float64 {
	var took []float64
	err := datapath.Within(ns, func() error {
		for range 100 {
			began := time.Now()
			c, err := net.DialTimeout("tcp4", to, 5*time.Second)
			if err != nil {
				return err
			}
			took = append(took, float64(time.Since(began).Nanoseconds())/1e3)
			c.Close()
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	return median(took)
}

// crowd puts n more Services of three endpoints each on a node.
func (n *labNode) crowd(b *testing.B, count int) {
	b.Helper()
	pools := map[service.Frontend]service.Pool{}
	for i := range count {
		var pool service.Pool
		for j := range 3 {
			pool.Endpoints = append(pool.Endpoints, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 42, byte(i), byte(10*j + i&7)}), 8080))
		}
		pools[service.Frontend{Addr: netip.AddrFrom4([4]byte{10, 43, 1 + byte(i>>8), byte(i)}), Protocol: service.TCP, Port: 80}] = pool
	}
	if err := n.net.watcher.SetOwner("crowd:", pools); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkAmongServices connects to one of 10 and to one of 10,000 Services, and
// changes one of 10,000: from the API object to the kernel.
func BenchmarkAmongServices(b *testing.B) {
	var ways []way
	var crowded *lab
	for _, count := range []int{10, 10_000} {
		crowded = newLab(b, 1)
		node := crowded.nodes[0]
		server, client := node.pod(), node.pod()
		echoTCP(b, server.ns, server.uid, 80)
		crowded.expose("web", "10.43.0.20", 0, server)
		eventually(b, "the Service answers", func() error { _, _, err := askTCP(client.ns, "10.43.0.20:80"); return err })
		node.crowd(b, count-1)
		ways = append(ways, way{fmt.Sprint(count), client.ns, netip.MustParseAddr("10.43.0.20")})
	}
	connect := inTurns(b, turns, ways, func(w way) float64 { return connects(b, w.ns, at(w.addr, 80)) })
	for _, w := range ways {
		report(b, "connect/"+w.name, connect[w.name], "µs")
	}
	// A Service without endpoints stands in a set of its own, which is quickly read.
	c, err := nftables.New(nftables.AsLasting(), nftables.WithNetNSFd(int(crowded.nodes[0].ns)))
	if err != nil {
		b.Fatal(err)
	}
	defer c.CloseLasting()
	refused, err := c.GetSetByName(&nftables.Table{Name: nft.TableName, Family: nftables.TableFamilyIPv4}, "refused")
	if err != nil {
		b.Fatal(err)
	}
	tick := time.NewTicker(200 * time.Microsecond)
	defer tick.Stop()
	var took []float64
	slices := crowded.client.DiscoveryV1().EndpointSlices("default")
	for i := range 2 * turns {
		slice, err := slices.Get(b.Context(), "web-1", metav1.GetOptions{})
		if err != nil {
			b.Fatal(err)
		}
		gone := i%2 == 0
		slice.Endpoints[0].Conditions.Ready = ptr.To(!gone)
		began := time.Now()
		if _, err := slices.Update(b.Context(), slice, metav1.UpdateOptions{}); err != nil {
			b.Fatal(err)
		}
		for {
			elements, err := c.GetSetElements(refused)
			if err != nil {
				b.Fatal(err)
			}
			if (len(elements) > 0) == gone {
				break
			}
			<-tick.C // looking all the time would be in the way of what is measured
		}
		took = append(took, float64(time.Since(began).Microseconds())/1e3)
	}
	report(b, "change", median(took), "ms")
}

// BenchmarkNodeJoins starts the network of a fourth node that has its subnet, until
// a pod on each of the three others has reached a pod on it. The ring, which is in
// memory here, adds what a message takes.
func BenchmarkNodeJoins(b *testing.B) {
	l := newLab(b, 3)
	var clients []*labPod
	for _, n := range l.nodes {
		clients = append(clients, n.pod())
	}
	var took []float64
	for i := range 10 {
		number := 10 + i
		ns, addr := l.host(number)
		node := &labNode{lab: l, name: fmt.Sprintf("node-%d", number), ns: ns, addr: addr, dir: b.TempDir()}
		pod := newNS(b)
		l.register(node, number)
		began := time.Now()
		node.start()
		var addrs []netip.Addr
		eventually(b, "the new node takes a pod", func() (err error) {
			addrs, err = node.net.Attach(b.Context(), PodAttachment{UID: node.name, NetNS: path(pod)})
			return err
		})
		echoTCP(b, pod, node.name, 80)
		for _, client := range clients {
			eventually(b, "the new node's pod is reached", func() error {
				c, err := dialIn(client.ns, "tcp4", at(addrs[0], 80), 50*time.Millisecond)
				if err == nil {
					c.Close()
				}
				return err
			})
		}
		took = append(took, float64(time.Since(began).Microseconds())/1e3)
	}
	report(b, "reached", median(took), "ms")
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
	var took []float64
	for i := 0; b.Loop(); i++ {
		uid, began := fmt.Sprint("bench-", i), time.Now()
		if _, err := n.Attach(b.Context(), PodAttachment{UID: uid, NetNS: path(ns)}); err != nil {
			b.Fatal(err)
		}
		took = append(took, float64(time.Since(began).Microseconds())/1e3)
		if err := n.Detach(b.Context(), uid); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(median(took), "p50-ms")
}
