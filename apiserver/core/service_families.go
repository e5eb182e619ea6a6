package core

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kontiki/apiserver/allocate"
)

// ipsOf are the addresses of a family; nil if the cluster's Services do not have it.
func (r *serviceREST) ipsOf(family corev1.IPFamily) *allocate.IPs {
	for _, ips := range r.cfg.ClusterIPs {
		if ips.Family() == family {
			return ips
		}
	}
	return nil
}

func otherFamily(f corev1.IPFamily) corev1.IPFamily {
	if f == corev1.IPv4Protocol {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

// families says which address families a Service has, and with that how many addresses,
// from its policy, from what was asked for and from what the cluster has (KEP-563).
func (r *serviceREST) families(s, old *corev1.Service) field.ErrorList {
	if !hasClusterIP(s) || old != nil && unchangedPreference(s, old) {
		return nil
	}
	if s.Spec.IPFamilyPolicy == nil {
		s.Spec.IPFamilyPolicy = defaultPolicy(s, old)
	}
	if errs := validateFamilies(s, field.NewPath("spec")); len(errs) > 0 {
		return errs
	}
	errs := append(releaseSecondary(s, old), tooManyForOne(s)...)
	errs = append(errs, r.inferFamilies(s)...)
	if len(errs) > 0 {
		return errs
	}
	dual := *s.Spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack
	own := r.cfg.ClusterIPs[0].Family()
	if s.Spec.ClusterIP == corev1.ClusterIPNone && len(s.Spec.Selector) == 0 {
		// Whoever writes the endpoints decides: both families are possible in any cluster.
		if len(s.Spec.IPFamilies) == 0 {
			s.Spec.IPFamilies = []corev1.IPFamily{own}
		}
		if dual && len(s.Spec.IPFamilies) == 1 {
			s.Spec.IPFamilies = append(s.Spec.IPFamilies, otherFamily(s.Spec.IPFamilies[0]))
		}
		return nil
	}
	if errs := r.configured(s); len(errs) > 0 {
		return errs
	}
	if len(s.Spec.IPFamilies) == 0 {
		s.Spec.IPFamilies = []corev1.IPFamily{own}
	}
	if dual && len(s.Spec.IPFamilies) == 1 && len(r.cfg.ClusterIPs) == 2 {
		s.Spec.IPFamilies = append(s.Spec.IPFamilies, otherFamily(s.Spec.IPFamilies[0]))
	}
	return nil
}

// unchangedPreference tells that an update says nothing new of a Service that prefers two
// families. It keeps what it has then, also when the cluster has become dual-stack or
// is so no more.
func unchangedPreference(s, old *corev1.Service) bool {
	prefers := func(p *corev1.IPFamilyPolicy) bool { return p == nil || *p == corev1.IPFamilyPolicyPreferDualStack }
	return s.Spec.IPFamilyPolicy != nil && s.Spec.Type == old.Spec.Type && prefers(s.Spec.IPFamilyPolicy) && prefers(old.Spec.IPFamilyPolicy) &&
		slices.Equal(s.Spec.ClusterIPs, old.Spec.ClusterIPs) && slices.Equal(s.Spec.IPFamilies, old.Spec.IPFamilies)
}

func defaultPolicy(s, old *corev1.Service) *corev1.IPFamilyPolicy {
	switch {
	case old != nil && old.Spec.IPFamilyPolicy != nil:
		return ptr(*old.Spec.IPFamilyPolicy)
	case s.Spec.ClusterIP == corev1.ClusterIPNone && len(s.Spec.Selector) == 0:
		return ptr(corev1.IPFamilyPolicyRequireDualStack)
	}
	return ptr(corev1.IPFamilyPolicySingleStack)
}

// releaseSecondary takes the second address and family off a Service that was told to have
// one. Leaving them out says that only together with the policy.
func releaseSecondary(s, old *corev1.Service) field.ErrorList {
	if old == nil {
		return nil
	}
	ips, families := &s.Spec.ClusterIPs, &s.Spec.IPFamilies
	if *s.Spec.IPFamilyPolicy == corev1.IPFamilyPolicySingleStack {
		if len(*ips) > 1 && slices.Equal(*ips, old.Spec.ClusterIPs) {
			*ips = (*ips)[:1:1]
		}
		if len(*families) > 1 && slices.Equal(*families, old.Spec.IPFamilies) {
			*families = (*families)[:1:1]
		}
		return nil
	}
	var errs field.ErrorList
	at := field.NewPath("spec", "ipFamilyPolicy")
	if len(*ips) > 0 && len(*ips) < len(old.Spec.ClusterIPs) {
		errs = append(errs, field.Invalid(at, s.Spec.IPFamilyPolicy, "must be 'SingleStack' to release the secondary cluster IP"))
	}
	if len(*families) > 0 && len(*families) < len(old.Spec.IPFamilies) {
		errs = append(errs, field.Invalid(at, s.Spec.IPFamilyPolicy, "must be 'SingleStack' to release the secondary IP family"))
	}
	return errs
}

func tooManyForOne(s *corev1.Service) field.ErrorList {
	if *s.Spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack {
		return nil
	}
	var errs field.ErrorList
	at := field.NewPath("spec", "ipFamilyPolicy")
	if len(s.Spec.ClusterIPs) == 2 {
		errs = append(errs, field.Invalid(at, s.Spec.IPFamilyPolicy, "must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified"))
	}
	if len(s.Spec.IPFamilies) == 2 {
		errs = append(errs, field.Invalid(at, s.Spec.IPFamilyPolicy, "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified"))
	}
	return errs
}

// inferFamilies adds the families of addresses that were asked for without them.
func (r *serviceREST) inferFamilies(s *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	for i, text := range s.Spec.ClusterIPs {
		ip, err := netip.ParseAddr(text)
		if err != nil {
			break // None; others were refused before
		}
		if i < len(s.Spec.IPFamilies) {
			continue
		}
		family := allocate.Family(ip)
		if r.ipsOf(family) == nil {
			errs = append(errs, field.Invalid(field.NewPath("spec", "clusterIPs").Index(i), s.Spec.ClusterIPs, fmt.Sprintf("%s is not configured on this cluster", family)))
			continue
		}
		s.Spec.IPFamilies = append(s.Spec.IPFamilies, family)
	}
	return errs
}

// configured refuses families that the cluster's Services do not have.
func (r *serviceREST) configured(s *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	spec := field.NewPath("spec")
	if *s.Spec.IPFamilyPolicy == corev1.IPFamilyPolicyRequireDualStack && len(r.cfg.ClusterIPs) < 2 {
		errs = append(errs, field.Invalid(spec.Child("ipFamilyPolicy"), s.Spec.IPFamilyPolicy, "this cluster is not configured for dual-stack services"))
	}
	for i, f := range s.Spec.IPFamilies {
		if r.ipsOf(f) == nil {
			errs = append(errs, field.Invalid(spec.Child("ipFamilies").Index(i), f, "not configured on this cluster"))
		}
	}
	return errs
}
