package overlay

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	"kontiki/internal/dump"
	"kontiki/overlay/datapath"
)

func prefixesOf(list ...string) (out []netip.Prefix) {
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func TestAcceptRanges(t *testing.T) {
	taken := append([]datapath.Network{
		{Prefix: netip.MustParsePrefix("192.168.77.0/24"), What: "the network of eth0"},
		{Prefix: netip.MustParsePrefix("172.20.5.0/24"), What: "where a route of this machine leads", Route: true},
		{Prefix: netip.MustParsePrefix("10.0.0.0/8"), What: "where a route of this machine leads", Route: true},
	}, nowhere...)
	for _, tc := range []struct {
		wanted         []netip.Prefix
		accepted, says string
	}{
		{nil, "[]", ""},
		{prefixesOf("10.43.0.0/16", "10.43.7.0/24"), "[]", ""}, // led there anyway
		{prefixesOf("10.99.0.0/24", "10.99.0.7/24"), "[10.99.0.0/24]", ""},
		{prefixesOf("10.99.0.0/24", "fd00:99::/112"), "[10.99.0.0/24]", ""},
		{prefixesOf("10.99.0.128/25", "10.99.0.0/24", "10.98.0.0/24"), "[10.98.0.0/24 10.99.0.0/24]", ""},
		{prefixesOf("10.42.0.0/15"), "[10.42.0.0/15]", ""}, // the pods' range is the caller's to name
		{prefixesOf("192.168.77.128/25"), "[]", "192.168.77.0/24, the network of eth0"},
		{prefixesOf("192.168.0.0/16"), "[]", "192.168.77.0/24, the network of eth0"},
		{prefixesOf("172.20.5.0/24"), "[]", "172.20.5.0/24, where a route"},
		{prefixesOf("172.20.0.0/16"), "[]", "172.20.5.0/24, where a route"},
		{prefixesOf("172.20.5.64/26"), "[172.20.5.64/26]", ""}, // a part of where a route leads, as of a default route
		{prefixesOf("0.0.0.0/0"), "[]", "192.168.77.0/24"},
		{prefixesOf("169.254.169.0/24"), "[]", "a link"},
		{prefixesOf("127.8.0.0/16"), "[]", "the machine itself"},
		{prefixesOf("239.0.0.0/24"), "[]", "groups"},
		// What is in a refused range may be accepted by itself.
		{prefixesOf("192.168.0.0/16", "192.168.9.0/24"), "[192.168.9.0/24]", "192.168.0.0/16"},
	} {
		accepted, complaints := acceptRanges(tc.wanted, prefixesOf("10.43.0.0/16"), taken)
		if got := fmt.Sprint(accepted); got != tc.accepted {
			t.Errorf("%v: %s, want %s", tc.wanted, got, tc.accepted)
		}
		if all := strings.Join(complaints, "\n"); (all == "") != (tc.says == "") || !strings.Contains(all, tc.says) {
			t.Errorf("%v: it says %q, want %q", tc.wanted, all, tc.says)
		}
	}
}

// TestAcceptedRangesAreInNobodysWay: whatever is wanted and taken, the order of what is wanted
// does not matter, no accepted range is in another, and none is in the way of what is taken.
func TestAcceptedRangesAreInNobodysWay(t *testing.T) {
	draw := func(t *rapid.T, what string) netip.Prefix {
		b := rapid.IntRange(0, 3)
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(b.Draw(t, what)), byte(64 * b.Draw(t, what)), 0}), rapid.IntRange(6, 20).Draw(t, what+"'s length")).Masked()
	}
	rapid.Check(t, func(t *rapid.T) {
		var wanted []netip.Prefix
		for range rapid.IntRange(0, 6).Draw(t, "ranges") {
			wanted = append(wanted, draw(t, "range"))
		}
		var taken []datapath.Network
		for range rapid.IntRange(0, 2).Draw(t, "networks") {
			taken = append(taken, datapath.Network{Prefix: draw(t, "network"), Route: rapid.Bool().Draw(t, "route")})
		}
		accepted, _ := acceptRanges(wanted, nil, taken)
		for i, r := range accepted {
			for _, n := range taken {
				if n.InTheWay(r) {
					t.Fatalf("%s is accepted, and %+v is taken", r, n)
				}
			}
			for _, o := range accepted[:i] {
				if o.Overlaps(r) {
					t.Fatalf("%s and %s overlap", o, r)
				}
			}
		}
		// All that is free is accepted, by itself or with what it is in.
		for _, r := range wanted {
			blocked := slices.ContainsFunc(taken, func(n datapath.Network) bool { return n.InTheWay(r) })
			led := slices.ContainsFunc(accepted, func(a netip.Prefix) bool { return a.Bits() <= r.Bits() && a.Contains(r.Addr()) })
			if !blocked && !led {
				t.Fatalf("%s is free, and not in %v", r, accepted)
			}
		}
		again, _ := acceptRanges(rapid.Permutation(wanted).Draw(t, "order"), nil, taken)
		if !slices.Equal(again, accepted) {
			t.Fatalf("the order matters: %v, %v", accepted, again)
		}
	})
}

// addRange makes a ServiceCIDR.
func (l *lab) addRange(name, cidr string) {
	l.t.Helper()
	obj := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{cidr}}}
	if _, err := l.client.NetworkingV1().ServiceCIDRs().Create(l.t.Context(), obj, metav1.CreateOptions{}); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) removeRange(name string) {
	l.t.Helper()
	if err := l.client.NetworkingV1().ServiceCIDRs().Delete(l.t.Context(), name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		l.t.Fatal(err)
	}
}

// leadsTo says whether a node has a route of the pod network for a range.
func (n *labNode) leadsTo(cidr string) func() error {
	return func() error {
		h, err := netlink.NewHandleAt(n.ns, unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		routes, err := dump.All(func() ([]netlink.Route, error) {
			return h.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Protocol: datapath.RouteProtocol}, netlink.RT_FILTER_PROTOCOL)
		})
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Dst.String() == cidr }) {
			return fmt.Errorf("%s has no route to %s", n.name, cidr)
		}
		return nil
	}
}

func not(check func() error) func() error {
	return func() error {
		if check() == nil {
			return errors.New("it is so")
		}
		return nil
	}
}

// TestFurtherRangeOfServices: Services with addresses of a ServiceCIDR that somebody added are
// reached from pods and nodes, which have no other route there, in both families of protocols
// and at the tunnel's port; what no Service has is refused at once; a node that restarts
// without the API still knows; and when the range is gone, so is the way to it.
func TestFurtherRangeOfServices(t *testing.T) {
	l := newLab(t, 2)
	a, b := l.nodes[0].pod(), l.nodes[1].pod()
	for _, p := range []*labPod{a, b} {
		echoTCP(t, p.ns, p.uid, 80)
		echoUDP(t, p.ns, p.uid, TunnelPort)
	}
	l.addRange("further", "10.99.0.0/24")
	slice := l.expose("web", "10.99.0.20", 0, a, b)
	l.changeService("web", func(s *corev1.Service) { s.Spec.Ports[1].Port = TunnelPort })
	slice.Ports[1].Port = ptr.To[int32](TunnelPort)
	l.update(slice)
	places := map[string]*labPod{"a pod": a, "the other pod": b, "a node": {ns: l.nodes[0].ns}, "the other node": {ns: l.nodes[1].ns}}
	reached := func(when string) {
		t.Helper()
		for who, p := range places {
			eventually(t, who+" reaches all endpoints "+when, answered(func() (string, error) { s, _, err := askTCP(p.ns, "10.99.0.20:80"); return s, err }, a.uid, b.uid))
			eventually(t, who+" reaches all endpoints by UDP "+when, answered(func() (string, error) {
				s, _, _, err := askUDP(p.ns, at(netip.MustParseAddr("10.99.0.20"), TunnelPort), 10, false)
				return s, err
			}, a.uid, b.uid))
		}
	}
	reached("")
	for who, p := range places {
		for _, to := range []string{"10.99.0.21:80", "10.99.0.20:81"} {
			if err := refused(func() (string, error) { s, _, err := askTCP(p.ns, to); return s, err })(); err != nil {
				t.Errorf("from %s to %s, which no Service has: %v", who, to, err)
			}
		}
	}
	t.Run("its addresses have names", func(t *testing.T) {
		c, err := dialIn(a.ns, "udp", at(labDNS, 53), time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		client := dns.Client{Timeout: 2 * time.Second}
		resp, _, err := client.ExchangeWithConn(new(dns.Msg).SetQuestion("20.0.99.10.in-addr.arpa.", dns.TypePTR), &dns.Conn{Conn: c})
		if err != nil || len(resp.Answer) != 1 || !strings.HasSuffix(resp.Answer[0].String(), "web.default.svc.cluster.local.") {
			t.Errorf("%v, %v", resp, err)
		}
	})
	t.Run("a node that restarts without the API", func(t *testing.T) {
		api := l.client
		l.nodes[0].stop()
		if err := Teardown(t.TempDir(), l.nodes[0].ns, l.nodes[0].net.log); err != nil { // the machine was rebooted
			t.Fatal(err)
		}
		l.client = unreachable()
		l.nodes[0].start()
		eventually(t, "the node leads to the range", l.nodes[0].leadsTo("10.99.0.0/24"))
		l.nodes[0].stop()
		l.client = api
		l.nodes[0].start()
		reached("after a restart")
	})
	if err := l.client.CoreV1().Services("default").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the deleted Service is refused", refused(func() (string, error) { s, _, err := askTCP(a.ns, "10.99.0.20:80"); return s, err }))
	l.removeRange("further")
	for _, n := range l.nodes {
		eventually(t, n.name+" leads nothing there any more", not(n.leadsTo("10.99.0.0/24")))
		if diff := n.net.Report().Differences; len(diff) > 0 {
			t.Errorf("%s: %q", n.name, diff)
		}
	}
}

// TestRangeThatIsNotFree: a ServiceCIDR across what a node reaches otherwise takes nothing
// away from it. It says so, and takes the range once it can.
func TestRangeThatIsNotFree(t *testing.T) {
	l := newLab(t, 2)
	node := l.nodes[0]
	a, b := l.nodes[0].pod(), l.nodes[1].pod()
	echoTCP(t, b.ns, b.uid, 80)
	outside, outsideAddr := l.host(200)
	echoTCP(t, outside, "outside", 8080)
	// A network behind the machine outside.
	behind := netip.MustParseAddr("172.20.5.9")
	out := handle(t, outside)
	lo, err := out.LinkByName("lo")
	if err == nil {
		err = out.AddrAdd(lo, &netlink.Addr{IPNet: &net.IPNet{IP: behind.AsSlice(), Mask: net.CIDRMask(32, 32)}})
	}
	if err != nil {
		t.Fatal(err)
	}
	h := handle(t, node.ns)
	route := &netlink.Route{Dst: &net.IPNet{IP: net.IPv4(172, 20, 5, 0), Mask: net.CIDRMask(24, 32)}, Gw: outsideAddr.AsSlice()}
	if err := h.RouteAdd(route); err != nil {
		t.Fatal(err)
	}
	all := func(what string) {
		t.Helper()
		for who, ask := range map[string]struct {
			from *labPod
			to   string
			want string
		}{
			"the node, its neighbour":                    {&labPod{ns: node.ns}, at(outsideAddr, 8080), "outside"},
			"the node, what is behind its neighbour":     {&labPod{ns: node.ns}, at(behind, 8080), "outside"},
			"a pod, its node's neighbour":                {a, at(outsideAddr, 8080), "outside"},
			"a pod, what is behind its node's neighbour": {a, at(behind, 8080), "outside"},
			"a pod, another node's pod":                  {a, at(b.addr, 80), b.uid},
		} {
			if server, _, err := askTCP(ask.from.ns, ask.to); err != nil || server != ask.want {
				t.Errorf("%s: %s asks %s: %q, %v", what, who, ask.to, server, err)
			}
		}
	}
	all("before")
	says := func(want string) {
		t.Helper()
		eventually(t, "the node says that there is "+want, func() error {
			diff := strings.Join(node.net.Report().Differences, "\n")
			if !strings.Contains(diff, want) {
				return fmt.Errorf("it says %q", diff)
			}
			return nil
		})
	}
	for cidr, want := range map[string]string{
		"192.168.77.128/25": "192.168.77.0/24, the network of eth0",
		"192.168.0.0/16":    "192.168.77.0/24, the network of eth0",
		"172.20.0.0/16":     "172.20.5.0/24, where a route of this machine leads",
		"10.42.128.0/17":    "10.42.0.0/16, the pods' range",
	} {
		l.addRange("taken", cidr)
		says(want)
		all("with the range " + cidr)
		if err := node.leadsTo(cidr)(); err == nil {
			t.Errorf("the node leads %s to Services", cidr)
		}
		l.removeRange("taken")
		eventually(t, "nothing is said any more", func() error {
			if diff := node.net.Report().Differences; len(diff) > 0 {
				return fmt.Errorf("it says %q", diff)
			}
			return nil
		})
	}
	l.addRange("taken", "172.20.0.0/16")
	says("172.20.5.0/24")
	if err := h.RouteDel(route); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the range to be taken once nothing is in its way", node.leadsTo("172.20.0.0/16"))
}
