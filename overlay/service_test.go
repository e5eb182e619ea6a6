package overlay

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"kontiki/overlay/datapath"
)

// expose makes a Service with TCP port 80 and UDP port 53, both leading to the
// same ports of the pods.
func (l *lab) expose(name, clusterIP string, nodePort int32, pods ...*labPod) *discoveryv1.EndpointSlice {
	l.t.Helper()
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	svc.Spec.ClusterIP, svc.Spec.ClusterIPs = clusterIP, []string{clusterIP}
	svc.Spec.Type = corev1.ServiceTypeClusterIP
	svc.Spec.Ports = []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP, NodePort: nodePort}, {Name: "udp", Port: 53, Protocol: corev1.ProtocolUDP}}
	if _, err := l.client.CoreV1().Services("default").Create(l.t.Context(), svc, metav1.CreateOptions{}); err != nil {
		l.t.Fatal(err)
	}
	slice := l.slice(name, pods...)
	slice, err := l.client.DiscoveryV1().EndpointSlices("default").Create(l.t.Context(), slice, metav1.CreateOptions{})
	if err != nil {
		l.t.Fatal(err)
	}
	return slice
}

func (l *lab) slice(service string, pods ...*labPod) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: service + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{
			{Name: ptr.To("http"), Port: ptr.To[int32](80), Protocol: ptr.To(corev1.ProtocolTCP)},
			{Name: ptr.To("udp"), Port: ptr.To[int32](53), Protocol: ptr.To(corev1.ProtocolUDP)},
		},
	}
	for _, p := range pods {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{p.addr.String()}, NodeName: ptr.To(p.node.name), Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)},
		})
	}
	return slice
}

func (l *lab) update(slice *discoveryv1.EndpointSlice) {
	l.t.Helper()
	if _, err := l.client.DiscoveryV1().EndpointSlices("default").Update(l.t.Context(), slice, metav1.UpdateOptions{}); err != nil {
		l.t.Fatal(err)
	}
}

// answered asks until every one of want has answered, and nobody else does.
func answered(ask func() (string, error), want ...string) func() error {
	return func() error {
		seen := map[string]bool{}
		for range 40 * len(want) {
			server, err := ask()
			if err != nil {
				return err
			}
			if !slices.Contains(want, server) {
				return fmt.Errorf("%s answered", server)
			}
			seen[server] = true
			if len(seen) == len(want) {
				return nil
			}
		}
		return fmt.Errorf("only %v answered", seen)
	}
}

func refused(ask func() (string, error)) func() error {
	return func() error {
		server, err := ask()
		if !errors.Is(err, unix.ECONNREFUSED) {
			return fmt.Errorf("%q answered, %v, instead of a refusal", server, err)
		}
		return nil
	}
}

// TestServices runs with and without the kernel filtering bridged frames, which
// is a setting of the machine that others change.
func TestServices(t *testing.T) {
	for _, filter := range []string{"1", "0"} {
		t.Run("bridge-nf-call-iptables="+filter, func(t *testing.T) {
			l := newLab(t, 3)
			for _, n := range l.nodes {
				err := datapath.Within(n.ns, func() error {
					return os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte(filter), 0)
				})
				if err != nil && filter == "1" {
					t.Skipf("needs a kernel that filters bridged frames: %v", err)
				}
			}
			testServices(t, l)
		})
	}
}

func testServices(t *testing.T, l *lab) {
	var pods []*labPod
	for _, n := range l.nodes {
		p := n.pod()
		echoTCP(t, p.ns, p.uid, 80)
		echoUDP(t, p.ns, p.uid, 53)
		pods = append(pods, p)
	}
	outside, outsideAddr := l.host(99)
	client := l.nodes[0].pod()
	slice := l.expose("web", "10.43.0.20", 30080, pods...)
	tcp := func(p *labPod, to string) func() (string, error) {
		return func() (string, error) { s, _, err := askTCP(p.ns, to); return s, err }
	}
	all := []string{pods[0].uid, pods[1].uid, pods[2].uid}

	for _, p := range append(slices.Clone(pods), client) {
		// A pod that is an endpoint reaches itself, too.
		eventually(t, p.uid+" reaches all endpoints through the Service", answered(tcp(p, "10.43.0.20:80"), all...))
	}
	eventually(t, "UDP reaches all endpoints", answered(func() (string, error) {
		s, _, _, err := askUDP(client.ns, "10.43.0.20:53", 10, false)
		return s, err
	}, all...))
	t.Run("a pod's address is seen", func(t *testing.T) {
		for range 20 {
			if server, seen, err := askTCP(client.ns, "10.43.0.20:80"); err != nil || seen != client.addr.String() {
				t.Errorf("%s saw %s, %v", server, seen, err)
			}
		}
	})
	for _, n := range l.nodes {
		node := &labPod{ns: n.ns}
		eventually(t, n.name+" itself reaches all endpoints", answered(tcp(node, "10.43.0.20:80"), all...))
		eventually(t, n.name+" reaches all endpoints through its own node port", answered(tcp(node, at(n.addr, 30080)), all...))
		eventually(t, "the outside reaches all endpoints through the node port of "+n.name, answered(func() (string, error) {
			s, _, err := askTCP(outside, at(n.addr, 30080))
			return s, err
		}, all...))
	}
	eventually(t, "a pod reaches another node's port", answered(tcp(client, at(l.nodes[1].addr, 30080)), all...))

	t.Run("what leaves the cluster has the node's address", func(t *testing.T) {
		echoTCP(t, outside, "outside", 8080)
		server, seen, err := askTCP(client.ns, at(outsideAddr, 8080))
		if err != nil || server != "outside" || seen != l.nodes[0].addr.String() {
			t.Errorf("%s saw %s, %v", server, seen, err)
		}
	})
	t.Run("endpoints that are nodes", func(t *testing.T) {
		var hosts []*labPod
		for i, n := range l.nodes {
			echoTCP(t, n.ns, n.name, 80)
			hosts = append(hosts, &labPod{addr: n.addr, node: l.nodes[i]})
		}
		l.expose("nodes", "10.43.0.1", 30081, hosts...)
		for _, p := range []*labPod{client, pods[1], {uid: "the node", ns: l.nodes[0].ns}} {
			eventually(t, p.uid+" reaches all nodes through the Service", answered(tcp(p, "10.43.0.1:80"), "node-1", "node-2", "node-3"))
		}
		eventually(t, "the outside reaches all nodes through a node port", answered(func() (string, error) {
			s, _, err := askTCP(outside, at(l.nodes[1].addr, 30081))
			return s, err
		}, "node-1", "node-2", "node-3"))
	})
	t.Run("nothing else in the range answers", func(t *testing.T) {
		for _, to := range []string{"10.43.0.20:81", "10.43.77.77:80"} {
			if err := refused(tcp(client, to))(); err != nil {
				t.Errorf("from a pod to %s: %v", to, err)
			}
			if err := refused(tcp(&labPod{ns: l.nodes[0].ns}, to))(); err != nil {
				t.Errorf("from the node to %s: %v", to, err)
			}
		}
	})
	t.Run("endpoints on dead nodes get nothing", func(t *testing.T) {
		l.ring.setDead("node-2")
		eventually(t, "only living nodes answer", answered(tcp(client, "10.43.0.20:80"), all[0], all[2]))
		l.ring.setDead()
		eventually(t, "all answer again", answered(tcp(client, "10.43.0.20:80"), all...))
	})
	t.Run("endpoints come and go", func(t *testing.T) {
		slice.Endpoints = slice.Endpoints[2:]
		l.update(slice)
		eventually(t, "only the last endpoint answers", answered(tcp(client, "10.43.0.20:80"), all[2]))
		eventually(t, "only the last endpoint answers at the node port", answered(tcp(client, at(l.nodes[0].addr, 30080)), all[2]))
		slice.Endpoints = nil
		l.update(slice)
		eventually(t, "connections are refused", refused(tcp(client, "10.43.0.20:80")))
		eventually(t, "connections to the node port are refused", refused(tcp(client, at(l.nodes[0].addr, 30080))))
		l.update(l.slice("web", pods...))
		eventually(t, "all answer again", answered(tcp(client, "10.43.0.20:80"), all...))
	})
	t.Run("a deleted Service is gone", func(t *testing.T) {
		if err := l.client.CoreV1().Services("default").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "connections are refused", refused(tcp(client, "10.43.0.20:80")))
	})
}

// keepSending returns a question that is always sent from the same socket.
func keepSending(t *testing.T, ns netns.NsHandle, to string) func() (string, error) {
	t.Helper()
	c, err := dialIn(ns, "udp4", to, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return func() (string, error) {
		if _, err := c.Write([]byte("x")); err != nil {
			return "", err
		}
		c.SetReadDeadline(time.Now().Add(time.Second))
		buf := make([]byte, 100)
		n, err := c.Read(buf)
		if err != nil {
			return "", err
		}
		var server string
		_, err = fmt.Sscanf(string(buf[:n]), "%s", &server)
		return server, err
	}
}

// TestUDPClientsFollowTheEndpoints: clients that go on sending from one socket, also
// if they began before there was anyone to answer.
func TestUDPClientsFollowTheEndpoints(t *testing.T) {
	l := newLab(t, 2)
	a, b, client := l.nodes[0].pod(), l.nodes[1].pod(), l.nodes[0].pod()
	echoUDP(t, a.ns, a.uid, 53)
	echoUDP(t, b.ns, b.uid, 53)
	outside, _ := l.host(99)
	slice := l.expose("dns", "10.43.0.30", 0)
	l.changeService("dns", func(s *corev1.Service) { s.Spec.Ports[1].NodePort = 30053 })
	early := map[string]func() (string, error){
		"a client outside":       keepSending(t, outside, at(l.nodes[0].addr, 30053)),
		"the node at 127.0.0.1":  keepSending(t, l.nodes[0].ns, "127.0.0.1:30053"),
		"a pod at the Service":   keepSending(t, client.ns, "10.43.0.30:53"),
		"a pod at the node port": keepSending(t, client.ns, at(l.nodes[1].addr, 30053)),
	}
	all := func(what string, want ...string) {
		t.Helper()
		for who, ask := range early {
			eventually(t, who+what, answered(ask, want...))
		}
	}
	for who, ask := range early {
		eventually(t, who+" is refused", refused(ask))
	}
	slice.Endpoints = l.slice("dns", a).Endpoints
	l.update(slice)
	all(" is answered by the first endpoint there is", a.uid)
	slice.Endpoints = l.slice("dns", b).Endpoints
	l.update(slice)
	all(" is answered by the second endpoint", b.uid)
	// Endpoints change while no process looks.
	for _, n := range l.nodes {
		n.stop()
	}
	slice.Endpoints = l.slice("dns", a).Endpoints
	l.update(slice)
	for _, n := range l.nodes {
		n.start()
	}
	all(" is answered by the endpoint that came while the nodes were down", a.uid)
}

// TestExternalIPs: addresses that others lead to the nodes.
func TestExternalIPs(t *testing.T) {
	l := newLab(t, 2)
	a, b := l.nodes[0].pod(), l.nodes[1].pod()
	echoTCP(t, a.ns, a.uid, 80)
	echoTCP(t, b.ns, b.uid, 80)
	l.expose("web", "10.43.0.20", 0, a, b)
	external := netip.MustParsePrefix("203.0.113.7/32")
	l.changeService("web", func(s *corev1.Service) { s.Spec.ExternalIPs = []string{external.Addr().String()} })
	outside, _ := l.host(99)
	h := handle(t, outside)
	eth, err := h.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range l.nodes {
		err := h.RouteReplace(&netlink.Route{LinkIndex: eth.Attrs().Index, Dst: &net.IPNet{IP: external.Addr().AsSlice(), Mask: net.CIDRMask(32, 32)}, Gw: n.addr.AsSlice()})
		if err != nil {
			t.Fatal(err)
		}
		for who, ns := range map[string]netns.NsHandle{"the outside": outside, "a pod": a.ns} {
			eventually(t, who+" reaches all endpoints at the external address through "+n.name, answered(func() (string, error) {
				s, _, err := askTCP(ns, at(external.Addr(), 80))
				return s, err
			}, a.uid, b.uid))
		}
	}
}

func TestHostPort(t *testing.T) {
	l := newLab(t, 1)
	p := l.nodes[0].pod(HostPort{HostPort: 8080, ContainerPort: 80, Protocol: "TCP"})
	echoTCP(t, p.ns, p.uid, 80)
	outside, outsideAddr := l.host(99)
	server, seen, err := askTCP(outside, at(l.nodes[0].addr, 8080))
	if err != nil || server != p.uid || seen != outsideAddr.String() {
		t.Errorf("%q saw %q, %v", server, seen, err)
	}
	if err := l.nodes[0].net.Detach(t.Context(), p.uid); err != nil {
		t.Fatal(err)
	}
	if server, _, err := askTCP(outside, at(l.nodes[0].addr, 8080)); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("after the pod was detached: %q, %v", server, err)
	}
}

func TestDNSFromPods(t *testing.T) {
	l := newLab(t, 2)
	a, b := l.nodes[0].pod(), l.nodes[1].pod()
	l.expose("web", "10.43.0.20", 0, a, b)
	ask := func(network, name string, kind uint16) (*dns.Msg, error) {
		var resp *dns.Msg
		c, err := dialIn(b.ns, network, at(labDNS, 53), time.Second)
		if err != nil {
			return nil, err
		}
		defer c.Close()
		client := dns.Client{Net: network, Timeout: 2 * time.Second}
		resp, _, err = client.ExchangeWithConn(new(dns.Msg).SetQuestion(name, kind), &dns.Conn{Conn: c})
		return resp, err
	}
	for _, network := range []string{"udp", "tcp"} {
		eventually(t, "a pod resolves the Service over "+network, func() error {
			resp, err := ask(network, "web.default.svc.cluster.local.", dns.TypeA)
			if err != nil {
				return err
			}
			if len(resp.Answer) != 1 || !resp.Answer[0].(*dns.A).A.Equal(net.IPv4(10, 43, 0, 20)) {
				return fmt.Errorf("the answer is %v", resp)
			}
			return nil
		})
	}
	resp, err := ask("udp", "nothing.default.svc.cluster.local.", dns.TypeA)
	if err != nil || resp.Rcode != dns.RcodeNameError || len(resp.Ns) != 1 {
		t.Errorf("a name that does not exist: %v, %v", resp, err)
	}
	// The node itself asks its own server, too.
	err = datapath.Within(l.nodes[0].ns, func() error {
		r, _, err := (&dns.Client{Timeout: 2 * time.Second}).Exchange(new(dns.Msg).SetQuestion("web.default.svc.cluster.local.", dns.TypeA), at(labDNS, 53))
		if err == nil && len(r.Answer) != 1 {
			err = fmt.Errorf("the answer is %v", r)
		}
		return err
	})
	if err != nil {
		t.Errorf("the node: %v", err)
	}
	shown := prometheus.NewPedanticRegistry()
	shown.MustRegister(l.nodes[0].net)
	families, err := shown.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		got[f.GetName()] = f.GetMetric()[0].GetCounter().GetValue() + f.GetMetric()[0].GetGauge().GetValue()
	}
	if got["kontiki_dns_questions_total"] != 1 || got["kontiki_dns_cluster_answers_total"] != 1 || got["kontiki_overlay_pods"] != 1 || got["kontiki_overlay_leases"] != 2 {
		t.Errorf("the metrics are %v", got)
	}
}

func TestNodeWithoutPodsReachesServices(t *testing.T) {
	l := newLab(t, 2)
	p := l.nodes[1].pod()
	echoTCP(t, p.ns, p.uid, 80)
	l.expose("web", "10.43.0.20", 30080, p)
	outside, _ := l.host(99)
	for _, to := range []string{"10.43.0.20:80", at(p.addr, 80), at(l.nodes[0].addr, 30080)} {
		eventually(t, "the node reaches "+to, answered(func() (string, error) {
			s, _, err := askTCP(l.nodes[0].ns, to)
			return s, err
		}, p.uid))
	}
	eventually(t, "the outside reaches its node port", answered(func() (string, error) {
		s, _, err := askTCP(outside, at(l.nodes[0].addr, 30080))
		return s, err
	}, p.uid))
}

// TestTCPClientIsNotHeldToASilentEndpoint: a client whose connection was never answered
// tries again from the same port, as happens by chance to one that connects often.
func TestTCPClientIsNotHeldToASilentEndpoint(t *testing.T) {
	l := newLab(t, 2)
	client, gone, alive := l.nodes[0].pod(), l.nodes[1].pod(), l.nodes[0].pod()
	echoTCP(t, alive.ns, alive.uid, 80)
	h := handle(t, gone.ns)
	link, err := h.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.LinkSetDown(link); err != nil {
		t.Fatal(err)
	}
	l.expose("web", "10.43.0.40", 0, gone)
	ask := func(wait time.Duration) (server string, err error) {
		d := net.Dialer{Timeout: wait, LocalAddr: &net.TCPAddr{Port: 40000}}
		var c net.Conn
		err = datapath.Within(client.ns, func() (err error) {
			c, err = d.Dial("tcp4", "10.43.0.40:80")
			return err
		})
		if err != nil {
			return "", err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(wait))
		_, err = fmt.Fscanf(c, "%s", &server)
		return server, err
	}
	eventually(t, "the endpoint that does not answer to be used", func() error {
		if _, err := ask(200 * time.Millisecond); !os.IsTimeout(err) {
			return fmt.Errorf("%v, want a timeout", err)
		}
		return nil
	})
	l.update(l.slice("web", alive))
	eventually(t, "the other endpoint to answer", answered(func() (string, error) {
		server, _, err := askTCP(client.ns, "10.43.0.40:80")
		return server, err
	}, alive.uid))
	if server, err := ask(5 * time.Second); server != alive.uid {
		t.Errorf("from the port of the connection that was not answered: %q, %v, want %s", server, err, alive.uid)
	}
}
