package service

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"
)

func web(change func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}}
	s.Spec.ClusterIP = "10.43.0.20"
	s.Spec.Ports = []corev1.ServicePort{{Name: "http", Port: 80, NodePort: 30080}}
	if change != nil {
		change(s)
	}
	return s
}

// balancer is web at a load balancer's address, for clients of some networks.
func balancer(sources ...string) *corev1.Service {
	return web(func(s *corev1.Service) {
		s.Spec.Type, s.Spec.LoadBalancerSourceRanges = corev1.ServiceTypeLoadBalancer, sources
		s.Spec.Ports[0].NodePort = 0
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.10"}}
	})
}

// ends makes a slice out of "address node condition…" lines; "node:x" and "zone:x" among them
// are hints.
func ends(lines ...string) []*discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: ptr.To("http"), Port: ptr.To[int32](8080)}}}
	for _, l := range lines {
		f := strings.Fields(l)
		ready := !slices.Contains(f, "ending") && !slices.Contains(f, "starting")
		ep := discoveryv1.Endpoint{Addresses: f[:1], NodeName: &f[1]}
		ep.Conditions.Ready = &ready
		ep.Conditions.Serving = ptr.To(!slices.Contains(f, "starting"))
		ep.Conditions.Terminating = ptr.To(slices.Contains(f, "ending"))
		for _, word := range f[2:] {
			if ep.Hints == nil {
				ep.Hints = &discoveryv1.EndpointHints{}
			}
			if node, ok := strings.CutPrefix(word, "node:"); ok {
				ep.Hints.ForNodes = append(ep.Hints.ForNodes, discoveryv1.ForNode{Name: node})
			}
			if zone, ok := strings.CutPrefix(word, "zone:"); ok {
				ep.Hints.ForZones = append(ep.Hints.ForZones, discoveryv1.ForZone{Name: zone})
			}
		}
		slice.Endpoints = append(slice.Endpoints, ep)
	}
	return []*discoveryv1.EndpointSlice{slice}
}

func show(pools map[Frontend]Pool) string {
	var out []string
	for f, p := range pools {
		at := "node"
		if f.Addr.IsValid() {
			at = f.Addr.String()
		}
		line := fmt.Sprintf("%s:%d/%d →", at, f.Port, f.Protocol)
		for _, ep := range p.Endpoints {
			line += " " + ep.String()
		}
		if p.Masquerade {
			line += " masquerade"
		}
		if p.Restricted {
			line += fmt.Sprintf(" only %v", p.Sources)
		}
		if p.Affinity > 0 {
			line += fmt.Sprintf(" for %s", p.Affinity)
		}
		out = append(out, line)
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

func TestPlan(t *testing.T) {
	local := corev1.ServiceInternalTrafficPolicyLocal
	for name, tc := range map[string]struct {
		svc  *corev1.Service
		eps  []*discoveryv1.EndpointSlice
		dead map[string]bool
		want string
	}{
		"ready ones count": {web(nil), ends("10.42.2.5 b", "10.42.1.5 a", "10.42.3.5 c starting", "10.42.3.6 c ending", "10.42.1.5 a"), nil,
			"10.43.0.20:80/6 → 10.42.1.5:8080 10.42.2.5:8080\nnode:30080/6 → 10.42.1.5:8080 10.42.2.5:8080 masquerade"},
		"ending ones serve when there are no others": {web(nil), ends("10.42.2.5 b ending", "10.42.3.5 c starting"), nil,
			"10.43.0.20:80/6 → 10.42.2.5:8080\nnode:30080/6 → 10.42.2.5:8080 masquerade"},
		"dead nodes count for nothing": {web(nil), ends("10.42.2.5 b", "10.42.1.5 a"), map[string]bool{"b": true},
			"10.43.0.20:80/6 → 10.42.1.5:8080\nnode:30080/6 → 10.42.1.5:8080 masquerade"},
		"none":          {web(nil), nil, nil, "10.43.0.20:80/6 →\nnode:30080/6 → masquerade"},
		"headless":      {web(func(s *corev1.Service) { s.Spec.ClusterIP = corev1.ClusterIPNone }), ends("10.42.1.5 a"), nil, ""},
		"external name": {web(func(s *corev1.Service) { s.Spec.Type, s.Spec.ClusterIP = corev1.ServiceTypeExternalName, "" }), nil, nil, ""},
		"local policies": {web(func(s *corev1.Service) {
			s.Spec.InternalTrafficPolicy, s.Spec.ExternalTrafficPolicy = &local, corev1.ServiceExternalTrafficPolicyLocal
		}), ends("10.42.2.5 b", "10.42.1.5 a"), nil,
			"10.43.0.20:80/6 → 10.42.1.5:8080\nnode:30080/6 → 10.42.1.5:8080"},
		"local policies, and all that is here ends": {web(func(s *corev1.Service) {
			s.Spec.InternalTrafficPolicy, s.Spec.ExternalTrafficPolicy = &local, corev1.ServiceExternalTrafficPolicyLocal
		}), ends("10.42.2.5 b", "10.42.1.5 a ending", "10.42.1.6 a starting"), nil,
			"10.43.0.20:80/6 → 10.42.1.5:8080\nnode:30080/6 → 10.42.1.5:8080"},
		"local policies, and nothing is here": {web(func(s *corev1.Service) {
			s.Spec.InternalTrafficPolicy, s.Spec.ExternalTrafficPolicy = &local, corev1.ServiceExternalTrafficPolicyLocal
		}), ends("10.42.2.5 b"), nil,
			"10.43.0.20:80/6 →\nnode:30080/6 →"},
		"addresses from outside": {web(func(s *corev1.Service) {
			s.Spec.ExternalIPs = []string{"192.0.2.9"}
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.10"}, {IP: "192.0.2.11", IPMode: ptr.To(corev1.LoadBalancerIPModeProxy)}, {IP: "192.168.77.1", IPMode: ptr.To(corev1.LoadBalancerIPModeProxy)}}
			s.Spec.Ports[0].NodePort = 0
		}), ends("10.42.1.5 a"), nil,
			"10.43.0.20:80/6 → 10.42.1.5:8080\n192.0.2.10:80/6 → 10.42.1.5:8080 masquerade\n192.0.2.9:80/6 → 10.42.1.5:8080 masquerade\n192.168.77.1:80/6 → 10.42.1.5:8080 masquerade"},
		"sources of a load balancer": {web(func(s *corev1.Service) {
			s.Spec.Type = corev1.ServiceTypeLoadBalancer
			s.Spec.LoadBalancerSourceRanges = []string{" 10.9.8.7/16", "2001:db8::/32", "10.9.0.0/16", "10.9.0.0/32"}
			s.Spec.ExternalIPs = []string{"192.0.2.9"}
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.10"}}
		}), ends("10.42.1.5 a"), nil,
			"10.43.0.20:80/6 → 10.42.1.5:8080\n192.0.2.10:80/6 → 10.42.1.5:8080 masquerade only [10.9.0.0/16 10.9.0.0/32]\n192.0.2.9:80/6 → 10.42.1.5:8080 masquerade\nnode:30080/6 → 10.42.1.5:8080 masquerade"},
		"a node that is let in, at a balancer's address of its own": {balancer("192.168.77.0/24"), ends("10.42.1.5 a"), nil,
			"10.43.0.20:80/6 → 10.42.1.5:8080\n192.0.2.10:80/6 → 10.42.1.5:8080 masquerade only [192.0.2.10/32 192.168.77.0/24]"},
		"a load balancer for all": {balancer("10.9.0.0/16", "0.0.0.0/0"), ends("10.42.1.5 a"), nil,
			"10.43.0.20:80/6 → 10.42.1.5:8080\n192.0.2.10:80/6 → 10.42.1.5:8080 masquerade"},
		"a load balancer for clients of IPv6 alone": {balancer("2001:db8::/32"), ends("10.42.1.5 a"), nil,
			"10.43.0.20:80/6 → 10.42.1.5:8080\n192.0.2.10:80/6 → 10.42.1.5:8080 masquerade only []"},
		"affinity": {web(func(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP }), ends("10.42.1.5 a"), nil,
			"10.43.0.20:80/6 → 10.42.1.5:8080 for 3h0m0s\nnode:30080/6 → 10.42.1.5:8080 masquerade for 3h0m0s"},
		"those for this node": {web(nil), ends("10.42.2.5 b node:b zone:z", "10.42.1.5 a node:a zone:z"), nil,
			"10.43.0.20:80/6 → 10.42.1.5:8080\nnode:30080/6 → 10.42.1.5:8080 masquerade"},
		"else those for its zone": {web(nil), ends("10.42.2.5 b node:b zone:z", "10.42.3.5 c node:c zone:y"), nil,
			"10.43.0.20:80/6 → 10.42.2.5:8080\nnode:30080/6 → 10.42.2.5:8080 masquerade"},
		"those for its zone, where one is for no node": {web(nil), ends("10.42.2.5 b zone:z", "10.42.1.5 a node:a zone:z", "10.42.3.5 c node:c zone:y"), nil,
			"10.43.0.20:80/6 → 10.42.1.5:8080 10.42.2.5:8080\nnode:30080/6 → 10.42.1.5:8080 10.42.2.5:8080 masquerade"},
		"all, where none is for its zone": {web(nil), ends("10.42.2.5 b zone:x", "10.42.3.5 c zone:y"), nil,
			"10.43.0.20:80/6 → 10.42.2.5:8080 10.42.3.5:8080\nnode:30080/6 → 10.42.2.5:8080 10.42.3.5:8080 masquerade"},
		"all, where one is for no zone": {web(nil), ends("10.42.2.5 b zone:z", "10.42.3.5 c"), nil,
			"10.43.0.20:80/6 → 10.42.2.5:8080 10.42.3.5:8080\nnode:30080/6 → 10.42.2.5:8080 10.42.3.5:8080 masquerade"},
		"others, when those for this node are on a dead one or not ready": {web(nil), ends("10.42.1.5 a node:a starting", "10.42.2.5 b node:a", "10.42.3.5 c node:c"), map[string]bool{"b": true},
			"10.43.0.20:80/6 → 10.42.3.5:8080\nnode:30080/6 → 10.42.3.5:8080 masquerade"},
		"ports go by name": {web(func(s *corev1.Service) { s.Spec.Ports[0].Name = "other" }), ends("10.42.1.5 a"), nil,
			"10.43.0.20:80/6 →\nnode:30080/6 → masquerade"},
	} {
		if got := show(Plan(tc.svc, tc.eps, Node{Name: "a", Zone: "z", Dead: tc.dead, Addr: netip.MustParseAddr("192.168.77.1")})); got != tc.want {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, tc.want)
		}
	}
}

// TestTableAgainstItself: applying the changes that Set returns to a copy always
// gives All, whoever claims what.
func TestTableAgainstItself(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		table, copied := NewTable(), map[Frontend]Pool{}
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			pools := map[Frontend]Pool{}
			for range rapid.IntRange(0, 3).Draw(t, "frontends") {
				f := Frontend{Addr: netip.AddrFrom4([4]byte{10, 43, 0, byte(rapid.IntRange(1, 3).Draw(t, "address"))}), Protocol: TCP, Port: 80}
				pools[f] = Pool{Endpoints: []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 42, 0, byte(rapid.IntRange(1, 3).Draw(t, "endpoint"))}), 80)}}
			}
			for _, ch := range table.Set(fmt.Sprint(rapid.IntRange(0, 3).Draw(t, "owner")), pools) {
				held, ok := copied[ch.Frontend]
				if ok != (ch.Old != nil) || ok && !held.Equal(*ch.Old) {
					t.Fatalf("%v says the old pool was %v, it was %v", ch.Frontend, ch.Old, held)
				}
				if ch.New == nil {
					delete(copied, ch.Frontend)
				} else {
					copied[ch.Frontend] = *ch.New
				}
			}
			if !maps.EqualFunc(copied, table.All(), Pool.Equal) {
				t.Fatalf("the changes give %v, the table is %v", copied, table.All())
			}
		}
	})
}
