package loadbalancer

import (
	"cmp"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"
)

// Class is the loadBalancerClass of this controller; Services without a class are
// its own, too.
const Class = "kontiki.io/nodes"

// excluded is the label that keeps a node out.
const excluded = corev1.LabelNodeExcludeBalancers

// decision is what one Service's status should say.
type decision struct {
	Ingress []corev1.LoadBalancerIngress
	// Refused says why it gets no address; empty when it may have some.
	Refused string
}

type claim struct {
	protocol corev1.Protocol
	port     int32
}

// plan gives each Service the addresses of the nodes that answer for it. Two
// Services cannot have one port of the nodes: the older one has it. It is a pure
// function; keys of the result are namespace/name.
func plan(services []*corev1.Service, nodes []*corev1.Node, slicesOf map[string][]*discoveryv1.EndpointSlice, reserved []int32) map[string]decision {
	mine := slices.DeleteFunc(slices.Clone(services), func(s *corev1.Service) bool { return !ours(s) })
	slices.SortFunc(mine, func(a, b *corev1.Service) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(key(a), key(b)))
	})
	taken := map[claim]string{}
	for _, p := range reserved {
		taken[claim{corev1.ProtocolTCP, p}], taken[claim{corev1.ProtocolUDP, p}] = "the nodes themselves", "the nodes themselves"
	}
	out := map[string]decision{}
	for _, s := range mine {
		var d decision
		for _, p := range s.Spec.Ports {
			if holder, ok := taken[claim{p.Protocol, p.Port}]; ok {
				d.Refused = fmt.Sprintf("port %d/%s of the nodes belongs to %s: use another port", p.Port, p.Protocol, holder)
			}
		}
		if d.Refused == "" {
			for _, p := range s.Spec.Ports {
				taken[claim{p.Protocol, p.Port}] = "Service " + key(s)
			}
			d.Ingress = ingress(s, nodes, slicesOf[key(s)])
		}
		out[key(s)] = d
	}
	return out
}

func key(s *corev1.Service) string { return s.Namespace + "/" + s.Name }

func ours(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.DeletionTimestamp == nil &&
		(s.Spec.LoadBalancerClass == nil || *s.Spec.LoadBalancerClass == Class)
}

// ingress lists the addresses of ready nodes; with policy Local of those only
// that have a ready endpoint, since the others refuse. Mode Proxy says that a
// node's address is no virtual one: packets for it have to go there.
func ingress(s *corev1.Service, nodes []*corev1.Node, list []*discoveryv1.EndpointSlice) []corev1.LoadBalancerIngress {
	has := map[string]bool{}
	for _, slice := range list {
		for _, ep := range slice.Endpoints {
			if ep.NodeName != nil && (ep.Conditions.Ready == nil || *ep.Conditions.Ready) {
				has[*ep.NodeName] = true
			}
		}
	}
	var out []corev1.LoadBalancerIngress
	for _, n := range nodes {
		if _, out := n.Labels[excluded]; out || !ready(n) || s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal && !has[n.Name] {
			continue
		}
		for _, a := range n.Status.Addresses {
			if a.Type == corev1.NodeInternalIP {
				out = append(out, corev1.LoadBalancerIngress{IP: a.Address, IPMode: ptr.To(corev1.LoadBalancerIPModeProxy)})
			}
		}
	}
	slices.SortFunc(out, func(a, b corev1.LoadBalancerIngress) int { return cmp.Compare(a.IP, b.IP) })
	return slices.CompactFunc(out, func(a, b corev1.LoadBalancerIngress) bool { return a.IP == b.IP })
}

func ready(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue && n.DeletionTimestamp == nil
		}
	}
	return false
}
