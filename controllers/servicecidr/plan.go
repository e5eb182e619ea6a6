package servicecidr

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// finalizer keeps a ServiceCIDR while addresses are in it; upstream's.
const finalizer = "networking.k8s.io/service-cidr-finalizer"

// managedBy is the label's value of IPAddresses that Services hold; upstream's.
const managedBy = "ipallocator.k8s.io"

// world is what a plan sees.
type world struct {
	CIDR      *networkingv1.ServiceCIDR   `json:"cidr"`
	Others    []*networkingv1.ServiceCIDR `json:"others"`
	Addresses []*networkingv1.IPAddress   `json:"addresses"`
	Services  []*corev1.Service           `json:"services"`
}

// change is what is to be done with the finalizer.
type change string

const (
	add    change = "add"
	remove change = "remove"
)

// actions are done in this order. Each by itself leaves what the next plan goes on from.
type actions struct {
	Finalizer change            `json:"finalizer,omitempty"`
	Condition *metav1.Condition `json:"condition,omitempty"`
}

// plan keeps the finalizer and the condition Ready of a ServiceCIDR. Addresses are given from
// it until it is deleted: the transaction that gives one holds only as long as the object is as it was.
// So once a deleted one is seen, no new address comes, and it goes when none is left in it
// that is in no other.
func plan(w world) actions {
	var todo actions
	has := slices.Contains(w.CIDR.Finalizers, finalizer)
	switch {
	case w.CIDR.DeletionTimestamp == nil:
		if !has {
			todo.Finalizer = add
		}
		todo.Condition = missing(w.CIDR, metav1.Condition{
			Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue, Message: "Kubernetes Service CIDR is ready",
		})
	case has && orphans(w):
		todo.Condition = missing(w.CIDR, metav1.Condition{
			Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionFalse, Reason: networkingv1.ServiceCIDRReasonTerminating,
			Message: "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR",
		})
	case has:
		todo.Finalizer = remove
	}
	return todo
}

// missing returns the condition unless the ServiceCIDR has it.
func missing(cidr *networkingv1.ServiceCIDR, want metav1.Condition) *metav1.Condition {
	if has := meta.FindStatusCondition(cidr.Status.Conditions, want.Type); has != nil && has.Status == want.Status && has.Reason == want.Reason {
		return nil
	}
	return &want
}

// orphans tells whether an address of a Service would be in no ServiceCIDR without this
// one. Those that are being deleted as well do not count: each would go because of the other.
func orphans(w world) bool {
	others := slices.DeleteFunc(slices.Clone(w.Others), func(c *networkingv1.ServiceCIDR) bool { return c.DeletionTimestamp != nil })
	orphan := func(ip netip.Addr) bool {
		return contains(w.CIDR, ip) && !slices.ContainsFunc(others, func(c *networkingv1.ServiceCIDR) bool { return contains(c, ip) })
	}
	for _, a := range w.Addresses {
		if ip, err := netip.ParseAddr(a.Name); err == nil && a.Labels[networkingv1.LabelManagedBy] == managedBy && orphan(ip) {
			return true
		}
	}
	for _, s := range w.Services { // one whose IPAddress somebody has removed
		if s.Spec.Type == corev1.ServiceTypeExternalName {
			continue
		}
		for _, text := range s.Spec.ClusterIPs {
			if ip, err := netip.ParseAddr(text); err == nil && orphan(ip) {
				return true
			}
		}
	}
	return false
}

func contains(cidr *networkingv1.ServiceCIDR, ip netip.Addr) bool {
	return slices.ContainsFunc(prefixes(cidr), func(p netip.Prefix) bool { return p.Contains(ip) })
}

// overlap tells whether two ServiceCIDRs have addresses in common.
func overlap(a, b *networkingv1.ServiceCIDR) bool {
	return slices.ContainsFunc(prefixes(a), func(p netip.Prefix) bool {
		return slices.ContainsFunc(prefixes(b), p.Overlaps)
	})
}

func prefixes(cidr *networkingv1.ServiceCIDR) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range cidr.Spec.CIDRs {
		if p, err := netip.ParsePrefix(text); err == nil {
			all = append(all, p)
		}
	}
	return all
}
