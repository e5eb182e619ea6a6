package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// known is a Source of fixed objects.
type known struct {
	services []*corev1.Service
	slices   []*discoveryv1.EndpointSlice
	behind   bool
}

func (k known) Service(namespace, name string) *corev1.Service {
	for _, s := range k.services {
		if s.Namespace == namespace && s.Name == name {
			return s
		}
	}
	return nil
}

func (k known) Slices(namespace, name string) (out []*discoveryv1.EndpointSlice) {
	for _, s := range k.slices {
		if s.Namespace == namespace && s.Labels[discoveryv1.LabelServiceName] == name {
			out = append(out, s)
		}
	}
	return out
}

func (k known) HasNamespace(namespace string) bool {
	return slices.ContainsFunc(k.services, func(s *corev1.Service) bool { return s.Namespace == namespace })
}

func (k known) ServicesAt(addr netip.Addr) (out []*corev1.Service) {
	for _, s := range k.services {
		if s.Spec.ClusterIP == addr.String() || slices.Contains(s.Spec.ClusterIPs, addr.String()) {
			out = append(out, s)
		}
	}
	return out
}

func (k known) SlicesAt(addr netip.Addr) (out []*discoveryv1.EndpointSlice) {
	for _, s := range k.slices {
		for _, ep := range s.Endpoints {
			if slices.Contains(ep.Addresses, addr.String()) {
				out = append(out, s)
			}
		}
	}
	return out
}

func (k known) Synced() bool { return !k.behind }

func svc(name, clusterIP string, ports ...corev1.ServicePort) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	s.Spec.ClusterIP, s.Spec.Ports = clusterIP, ports
	return s
}

func cluster() known {
	http := corev1.ServicePort{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}
	dual := svc("dual", "10.43.0.22", http)
	dual.Spec.ClusterIPs = []string{"10.43.0.22", "fd00:43::22"}
	external := svc("away", "")
	external.Spec.Type, external.Spec.ExternalName = corev1.ServiceTypeExternalName, "www.example.org"
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "db-1", Labels: map[string]string{discoveryv1.LabelServiceName: "db"}},
		Ports:      []discoveryv1.EndpointPort{{Name: ptr.To("sql"), Port: ptr.To[int32](5432), Protocol: ptr.To(corev1.ProtocolTCP)}},
		Endpoints: []discoveryv1.Endpoint{
			{Addresses: []string{"10.42.1.5"}, Hostname: ptr.To("db-0")},
			{Addresses: []string{"10.42.2.7"}},
			{Addresses: []string{"10.42.3.9"}, Hostname: ptr.To("db-2"), Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(false)}},
		},
	}
	return known{
		services: []*corev1.Service{svc("web", "10.43.0.20", http), svc("db", corev1.ClusterIPNone), svc("empty", corev1.ClusterIPNone), external, dual, svc("further", "10.99.0.7", http), svc("six", corev1.ClusterIPNone)},
		slices: []*discoveryv1.EndpointSlice{slice, {
			ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: "six-1", Labels: map[string]string{discoveryv1.LabelServiceName: "six"}},
			AddressType: discoveryv1.AddressTypeIPv6,
			Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"fd00:42::5"}}},
		}},
	}
}

func server(src Source, upstreams ...netip.AddrPort) *Server {
	return New(Config{
		Domain: "cluster.local", Source: src, Logger: slog.New(slog.DiscardHandler),
		Ranges:    []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("10.43.0.0/16")},
		Pods:      []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")},
		Upstreams: func() []netip.AddrPort { return upstreams },
	})
}

// TestSpecification holds the answers against the Kubernetes DNS specification 1.1.0.
func TestSpecification(t *testing.T) {
	s := server(cluster())
	for _, tc := range []struct {
		kind uint16
		name string
		want string // code, then the answers' data in order
	}{
		{dns.TypeTXT, "dns-version.cluster.local.", `NOERROR "1.1.0"`},
		{dns.TypeA, "web.default.svc.cluster.local.", "NOERROR 10.43.0.20"},
		{dns.TypeA, "WEB.Default.svc.Cluster.local.", "NOERROR 10.43.0.20"},
		{dns.TypeAAAA, "web.default.svc.cluster.local.", "NOERROR"},
		{dns.TypeSRV, "_http._tcp.web.default.svc.cluster.local.", "NOERROR 0 1 80 web.default.svc.cluster.local."},
		{dns.TypeSRV, "_http._udp.web.default.svc.cluster.local.", "NXDOMAIN"},
		{dns.TypeSRV, "_smtp._tcp.web.default.svc.cluster.local.", "NXDOMAIN"},
		{dns.TypeA, "_tcp.web.default.svc.cluster.local.", "NOERROR"},
		{dns.TypePTR, "20.0.43.10.in-addr.arpa.", "NOERROR web.default.svc.cluster.local."},
		{dns.TypePTR, "21.0.43.10.in-addr.arpa.", "NXDOMAIN"},
		// A range that somebody added: of its addresses only those of Services are the cluster's.
		{dns.TypePTR, "7.0.99.10.in-addr.arpa.", "NOERROR further.default.svc.cluster.local."},
		{dns.TypePTR, "8.0.99.10.in-addr.arpa.", "SERVFAIL"}, // no upstream here
		{dns.TypeAAAA, "dual.default.svc.cluster.local.", "NOERROR fd00:43::22"},
		{dns.TypeA, "dual.default.svc.cluster.local.", "NOERROR 10.43.0.22"},
		{dns.TypePTR, reverse6("fd00:43::22"), "NOERROR dual.default.svc.cluster.local."},
		{dns.TypeAAAA, "six.default.svc.cluster.local.", "NOERROR fd00:42::5"},
		{dns.TypeA, "six.default.svc.cluster.local.", "NOERROR"},
		{dns.TypeAAAA, "fd00-42--5.six.default.svc.cluster.local.", "NOERROR fd00:42::5"},
		{dns.TypeA, "db.default.svc.cluster.local.", "NOERROR 10.42.1.5 10.42.2.7"},
		{dns.TypeA, "db-0.db.default.svc.cluster.local.", "NOERROR 10.42.1.5"},
		{dns.TypeA, "10-42-2-7.db.default.svc.cluster.local.", "NOERROR 10.42.2.7"},
		{dns.TypeA, "db-2.db.default.svc.cluster.local.", "NXDOMAIN"},
		{dns.TypeSRV, "_sql._tcp.db.default.svc.cluster.local.", "NOERROR 0 1 5432 10-42-2-7.db.default.svc.cluster.local. 0 1 5432 db-0.db.default.svc.cluster.local."},
		{dns.TypePTR, "5.1.42.10.in-addr.arpa.", "NOERROR db-0.db.default.svc.cluster.local."},
		{dns.TypePTR, "9.3.42.10.in-addr.arpa.", "NXDOMAIN"},
		{dns.TypeA, "empty.default.svc.cluster.local.", "NXDOMAIN"},
		{dns.TypeCNAME, "away.default.svc.cluster.local.", "NOERROR www.example.org."},
		{dns.TypeA, "10-42-1-5.default.pod.cluster.local.", "NOERROR 10.42.1.5"},
		{dns.TypeA, "192-0-2-1.default.pod.cluster.local.", "NXDOMAIN"},
		{dns.TypeA, "nothing.default.svc.cluster.local.", "NXDOMAIN"},
		{dns.TypeA, "web.nowhere.svc.cluster.local.", "NXDOMAIN"},
		{dns.TypeA, "default.svc.cluster.local.", "NOERROR"},
		{dns.TypeA, "svc.cluster.local.", "NOERROR"},
		{dns.TypeA, "cluster.local.", "NOERROR"},
		{dns.TypeA, "a.b.web.default.svc.cluster.local.", "NXDOMAIN"},
		{dns.TypeA, "www.example.org.", "SERVFAIL"}, // no upstream here
	} {
		resp := s.Handle(t.Context(), netip.Addr{}, new(dns.Msg).SetQuestion(tc.name, tc.kind), false)
		got := describe(resp)
		if got != tc.want {
			t.Errorf("%s %s: %q, want %q", dns.TypeToString[tc.kind], tc.name, got, tc.want)
		}
		if resp.Rcode != dns.RcodeServerFailure && len(resp.Answer) == 0 && (len(resp.Ns) != 1 || resp.Ns[0].Header().Rrtype != dns.TypeSOA) {
			t.Errorf("%s %s: no answer and no SOA", dns.TypeToString[tc.kind], tc.name)
		}
		for _, rr := range resp.Answer {
			if rr.Header().Name != tc.name {
				t.Errorf("%s: the answer is about %s", tc.name, rr.Header().Name)
			}
		}
	}
}

func reverse6(addr string) string {
	name, err := dns.ReverseAddr(addr)
	if err != nil {
		panic("dns: an address of a test does not parse: " + addr)
	}
	return name
}

func describe(resp *dns.Msg) string {
	var parts []string
	for _, rr := range resp.Answer {
		parts = append(parts, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	slices.Sort(parts)
	return strings.TrimSpace(dns.RcodeToString[resp.Rcode] + " " + strings.Join(parts, " "))
}

func TestNothingIsDeniedBeforeAllIsKnown(t *testing.T) {
	src := cluster()
	src.behind = true
	resp := server(src).Handle(t.Context(), netip.Addr{}, new(dns.Msg).SetQuestion("nothing.default.svc.cluster.local.", dns.TypeA), false)
	if resp.Rcode != dns.RcodeServerFailure {
		t.Errorf("the code is %s", dns.RcodeToString[resp.Rcode])
	}
	asked := server(src, upstream(t)).Handle(t.Context(), netip.Addr{}, new(dns.Msg).SetQuestion("8.0.99.10.in-addr.arpa.", dns.TypePTR), false)
	if asked.Rcode != dns.RcodeServerFailure {
		t.Errorf("an address that may be a Service's: the code is %s", dns.RcodeToString[asked.Rcode])
	}
}

func TestLargeAnswers(t *testing.T) {
	src := cluster()
	for i := range 200 {
		src.slices[0].Endpoints = append(src.slices[0].Endpoints, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("10.42.9.%d", i)}})
	}
	s := server(src)
	ask := func(edns bool, tcp bool) *dns.Msg {
		req := new(dns.Msg).SetQuestion("db.default.svc.cluster.local.", dns.TypeA)
		if edns {
			req.SetEdns0(4096, false)
		}
		return s.Handle(t.Context(), netip.Addr{}, req, tcp)
	}
	if r := ask(false, false); !r.Truncated || r.Len() > 512 {
		t.Errorf("without EDNS0: truncated %v, %d bytes", r.Truncated, r.Len())
	}
	if r := ask(true, false); !r.Truncated || r.Len() > udpSize || r.IsEdns0() == nil {
		t.Errorf("with EDNS0: truncated %v, %d bytes", r.Truncated, r.Len())
	}
	if r := ask(false, true); r.Truncated || len(r.Answer) != 202 {
		t.Errorf("over TCP: truncated %v, %d answers", r.Truncated, len(r.Answer))
	}
}

// upstream serves on loopback: over UDP it says that the answer does not fit.
func upstream(t *testing.T) netip.AddrPort {
	t.Helper()
	packets, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := packets.LocalAddr().(*net.UDPAddr).AddrPort()
	listener, err := net.Listen("tcp4", at.String())
	if err != nil {
		packets.Close()
		t.Skipf("needs one port for UDP and TCP, TCP is taken: %v", err)
	}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, req *dns.Msg) {
		resp := new(dns.Msg).SetReply(req)
		if _, tcp := w.RemoteAddr().(*net.TCPAddr); !tcp {
			resp.Truncated = true
		} else if req.Question[0].Name == "www.example.org." {
			resp.Answer = []dns.RR{&dns.A{Hdr: header("www.example.org.", dns.TypeA), A: net.IPv4(192, 0, 2, 80)}}
		} else {
			resp.Rcode = dns.RcodeNameError
		}
		w.WriteMsg(resp)
	})
	for _, s := range []*dns.Server{{PacketConn: packets, Handler: handler}, {Listener: listener, Handler: handler}} {
		started, ended := make(chan struct{}), make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go func() { defer close(ended); s.ActivateAndServe() }()
		<-started
		t.Cleanup(func() { s.Shutdown(); <-ended })
	}
	return at
}

func TestForwarding(t *testing.T) {
	// The first upstream is not there.
	dead := netip.MustParseAddrPort("127.0.0.1:1")
	s := server(cluster(), dead, upstream(t))
	for name, want := range map[string]string{
		"www.example.org.":                "NOERROR 192.0.2.80",
		"other.example.org.":              "NXDOMAIN",
		"away.default.svc.cluster.local.": "NOERROR 192.0.2.80 www.example.org.",
	} {
		req := new(dns.Msg).SetQuestion(name, dns.TypeA)
		resp := s.Handle(t.Context(), netip.Addr{}, req, false)
		if got := describe(resp); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
		if resp.Id != req.Id || len(resp.Question) != 1 || resp.Question[0].Name != name {
			t.Errorf("%s: the answer is to question %v, id %d", name, resp.Question, resp.Id)
		}
	}
}

func TestServeAndStop(t *testing.T) {
	s := server(cluster())
	opened := make(chan string, 1)
	tries := 0
	s.cfg.Listen = func() (net.PacketConn, net.Listener, error) {
		if tries++; tries == 1 {
			return nil, nil, errors.New("the port is taken")
		}
		packets, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			return nil, nil, err
		}
		listener, err := net.Listen("tcp4", packets.LocalAddr().String())
		if err != nil {
			packets.Close()
			return nil, nil, err
		}
		opened <- packets.LocalAddr().String()
		return packets, listener, nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); s.Run(ctx) }()
	at := <-opened
	for _, network := range []string{"udp", "tcp"} {
		resp, _, err := (&dns.Client{Net: network, Timeout: 5 * time.Second}).Exchange(new(dns.Msg).SetQuestion("web.default.svc.cluster.local.", dns.TypeA), at)
		if err != nil || describe(resp) != "NOERROR 10.43.0.20" {
			t.Errorf("%s: %v, %v", network, resp, err)
		}
	}
	cancel()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Fatal("waited 20 s for the server to end")
	}
}

// FuzzHandle: whatever comes, the server answers with something that can be
// packed, belongs to the question and fits, or not at all.
func FuzzHandle(f *testing.F) {
	for _, name := range []string{"web.default.svc.cluster.local.", "5.1.42.10.in-addr.arpa.", "_sql._tcp.db.default.svc.cluster.local.", "www.example.org."} {
		for _, kind := range []uint16{dns.TypeA, dns.TypeSRV, dns.TypePTR, dns.TypeANY} {
			req := new(dns.Msg).SetQuestion(name, kind)
			req.SetEdns0(1232, true)
			raw, err := req.Pack()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(raw)
		}
	}
	s := server(cluster())
	f.Fuzz(func(t *testing.T, raw []byte) {
		req := new(dns.Msg)
		if req.Unpack(raw) != nil {
			return
		}
		resp := s.Handle(t.Context(), netip.Addr{}, req, false)
		if resp == nil {
			return
		}
		out, err := resp.Pack()
		if err != nil {
			t.Fatalf("the answer to %v cannot be packed: %v", req, err)
		}
		if resp.Id != req.Id || !resp.Response {
			t.Fatalf("the answer %v does not belong to %v", resp, req)
		}
		if len(req.Question) == 1 && len(out) > udpSize {
			t.Fatalf("%d bytes", len(out))
		}
	})
}
