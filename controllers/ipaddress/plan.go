package ipaddress

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// managedBy is the label's value of IPAddresses that Services hold; upstream's.
const managedBy = "ipallocator.k8s.io"

// world is what a plan sees of one Service.
type world struct {
	Service   *corev1.Service             `json:"service"`
	CIDRs     []*networkingv1.ServiceCIDR `json:"cidrs"`
	Addresses []*networkingv1.IPAddress   `json:"addresses"` // at least those of the Service's cluster IPs
	Services  []*corev1.Service           `json:"services"`  // at least those that the Addresses refer to
}

// repair is what is to be done about one address: tell it, remove the IPAddress that
// is there, make the right one. A crash in between leaves an address without an IPAddress, which
// the next plan makes.
type repair struct {
	IP      string `json:"ip"`
	Reason  string `json:"reason,omitempty"` // of an event, with the message
	Message string `json:"message,omitempty"`
	Remove  bool   `json:"remove,omitempty"`
	Create  bool   `json:"create,omitempty"`
}

// planService holds that each address of a Service is an IPAddress which refers to it. An
// address and its IPAddress are written together; they can differ only when a user has
// changed the IPAddress, or the Service is older than IPAddresses are.
func planService(w world) []repair {
	s := w.Service
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	var todo []repair
	for _, text := range s.Spec.ClusterIPs {
		if text == corev1.ClusterIPNone || text == "" {
			continue
		}
		ip, err := netip.ParseAddr(text)
		if err != nil {
			todo = append(todo, repair{IP: text, Reason: "ClusterIPNotValid", Message: fmt.Sprintf("Cluster IP %s is not a valid IP; please recreate Service", text)})
			continue
		}
		if r := planAddress(w, ip); r != (repair{}) {
			r.IP = text
			todo = append(todo, r)
		}
	}
	return todo
}

func planAddress(w world, ip netip.Addr) repair {
	s, family := w.Service, familyOf(ip)
	if !slices.ContainsFunc(w.CIDRs, func(c *networkingv1.ServiceCIDR) bool { return contains(c, ip) }) {
		return repair{Reason: "ClusterIPOutOfRange", Message: fmt.Sprintf("Cluster IP [%v]: %s is not within any configured Service CIDR; please recreate service", family, ip)}
	}
	at := slices.IndexFunc(w.Addresses, func(a *networkingv1.IPAddress) bool { return a.Name == ip.String() })
	if at < 0 {
		return repair{Reason: "ClusterIPNotAllocated", Message: fmt.Sprintf("Cluster IP [%v]: %s is not allocated; repairing", family, ip), Create: true}
	}
	address := w.Addresses[at]
	if address.DeletionTimestamp != nil {
		return repair{} // its name is free once whoever keeps it lets it go
	}
	ref := address.Spec.ParentRef
	wrong := repair{
		Reason: "ClusterIPNotAllocated", Message: fmt.Sprintf("the ClusterIP [%v]: %s for Service %s/%s has a wrong reference; repairing", family, ip, s.Namespace, s.Name),
		Remove: true, Create: true,
	}
	if !ofService(ref) {
		return wrong
	}
	if ref.Namespace != s.Namespace || ref.Name != s.Name {
		other := parent(w.Services, ref)
		if other == nil || !has(other, address.Name) {
			return wrong
		}
		return repair{Reason: "ClusterIPAlreadyAllocated", Message: fmt.Sprintf("Cluster IP [%v]:%s was assigned to multiple services; please recreate service", family, ip)}
	}
	if address.Labels[networkingv1.LabelIPAddressFamily] != string(family) || address.Labels[networkingv1.LabelManagedBy] != managedBy {
		return repair{Remove: true, Create: true}
	}
	return repair{}
}

// planIPAddress removes an IPAddress of a Service that has it no more, or never had. Those
// that are not of Services are not looked at. service is the one that it refers to, nil if there is none.
func planIPAddress(a *networkingv1.IPAddress, service *corev1.Service) repair {
	ref := a.Spec.ParentRef
	switch {
	case a.Labels[networkingv1.LabelManagedBy] != managedBy || a.DeletionTimestamp != nil:
		return repair{}
	case !ofService(ref):
		return repair{IP: a.Name, Remove: true, Reason: "IPAddressNotAllocated",
			Message: fmt.Sprintf("IPAddress %s appears to have been modified, not referencing a Service %v: cleaning up", a.Name, ref)}
	case service == nil:
		return repair{IP: a.Name, Remove: true, Reason: "IPAddressNotAllocated",
			Message: fmt.Sprintf("IPAddress: %s for Service %s/%s appears to have leaked: cleaning up", a.Name, ref.Namespace, ref.Name)}
	case has(service, a.Name):
		return repair{}
	}
	return repair{IP: a.Name, Remove: true, Reason: "IPAddressWrongReference",
		Message: fmt.Sprintf("IPAddress: %s for Service %s/%s has a wrong reference; cleaning up", a.Name, ref.Namespace, ref.Name)}
}

func ofService(ref *networkingv1.ParentReference) bool {
	return ref != nil && ref.Group == "" && ref.Resource == "services"
}

func parent(services []*corev1.Service, ref *networkingv1.ParentReference) *corev1.Service {
	for _, s := range services {
		if s.Namespace == ref.Namespace && s.Name == ref.Name {
			return s
		}
	}
	return nil
}

func familyOf(ip netip.Addr) corev1.IPFamily {
	if ip.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

func contains(cidr *networkingv1.ServiceCIDR, ip netip.Addr) bool {
	return slices.ContainsFunc(cidr.Spec.CIDRs, func(text string) bool {
		p, err := netip.ParsePrefix(text)
		return err == nil && p.Contains(ip)
	})
}

// has tells whether a Service has the address that an IPAddress is named after, however it
// is written there.
func has(s *corev1.Service, name string) bool { return slices.Contains(ipsOf(s), name) }
