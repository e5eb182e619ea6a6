package networking

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	unversioned "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kontiki/apiserver/kind"
)

func networkPolicies() kind.Definition {
	return &kind.Kind[*networkingv1.NetworkPolicy]{
		Resource: "networkpolicies", Singular: "networkpolicy", ShortNames: []string{"netpol"},
		New:        func() *networkingv1.NetworkPolicy { return &networkingv1.NetworkPolicy{} },
		NewList:    func() runtime.Object { return &networkingv1.NetworkPolicyList{} },
		Generation: func(p *networkingv1.NetworkPolicy) any { return p.Spec },
		Default:    defaultPolicy,
		Warn:       warnPolicy,
		Validate:   func(p *networkingv1.NetworkPolicy) field.ErrorList { return validatePolicy(&p.Spec) },
		Columns: []metav1.TableColumnDefinition{
			kind.NameColumn,
			kind.Column("Pod-Selector", networkingv1.NetworkPolicySpec{}.SwaggerDoc()["podSelector"]),
			kind.AgeColumn,
		},
		Cells: func(p *networkingv1.NetworkPolicy) []any {
			return []any{p.Name, metav1.FormatLabelSelector(&p.Spec.PodSelector), kind.Age(p.CreationTimestamp)}
		},
	}
}

func defaultPolicy(p *networkingv1.NetworkPolicy) {
	s := &p.Spec
	ports := func(list []networkingv1.NetworkPolicyPort) {
		for i := range list {
			kind.SetDefaultPtr(&list[i].Protocol, corev1.ProtocolTCP)
		}
	}
	for i := range s.Ingress {
		ports(s.Ingress[i].Ports)
	}
	for i := range s.Egress {
		ports(s.Egress[i].Ports)
	}
	if len(s.PolicyTypes) == 0 {
		s.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(s.Egress) != 0 {
			s.PolicyTypes = append(s.PolicyTypes, networkingv1.PolicyTypeEgress)
		}
	}
}

func validatePolicy(s *networkingv1.NetworkPolicySpec) field.ErrorList {
	at := field.NewPath("spec")
	errs := unversioned.ValidateLabelSelector(&s.PodSelector, unversioned.LabelSelectorValidationOptions{}, at.Child("podSelector"))
	for i, r := range s.Ingress {
		errs = append(errs, validateRule(r.Ports, r.From, at.Child("ingress").Index(i), "from")...)
	}
	for i, r := range s.Egress {
		errs = append(errs, validateRule(r.Ports, r.To, at.Child("egress").Index(i), "to")...)
	}
	types := at.Child("policyTypes")
	if len(s.PolicyTypes) > 2 {
		return append(errs, field.Invalid(types, &s.PolicyTypes, "may not specify more than two policyTypes"))
	}
	for i, t := range s.PolicyTypes {
		errs = append(errs, kind.Supported(t, types.Index(i), networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress)...)
	}
	return errs
}

func validateRule(ports []networkingv1.NetworkPolicyPort, peers []networkingv1.NetworkPolicyPeer, at *field.Path, child string) field.ErrorList {
	var errs field.ErrorList
	for i, p := range ports {
		errs = append(errs, validatePort(p, at.Child("ports").Index(i))...)
	}
	for i, p := range peers {
		errs = append(errs, validatePeer(p, at.Child(child).Index(i))...)
	}
	return errs
}

func validatePort(p networkingv1.NetworkPolicyPort, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if p.Protocol != nil {
		errs = append(errs, kind.Supported(*p.Protocol, at.Child("protocol"), corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)...)
	}
	switch {
	case p.Port == nil:
		if p.EndPort != nil {
			errs = append(errs, field.Invalid(at.Child("endPort"), *p.EndPort, "may not be specified when `port` is not specified"))
		}
	case p.Port.Type == intstr.Int:
		errs = append(errs, kind.Invalid(at.Child("port"), p.Port.IntVal, utilvalidation.IsValidPortNum(int(p.Port.IntVal)))...)
		if p.EndPort != nil {
			if *p.EndPort < p.Port.IntVal {
				errs = append(errs, field.Invalid(at.Child("endPort"), *p.EndPort, "must be greater than or equal to `port`"))
			}
			errs = append(errs, kind.Invalid(at.Child("endPort"), *p.EndPort, utilvalidation.IsValidPortNum(int(*p.EndPort)))...)
		}
	default:
		if p.EndPort != nil {
			errs = append(errs, field.Invalid(at.Child("endPort"), *p.EndPort, "may not be specified when `port` is non-numeric"))
		}
		errs = append(errs, kind.Invalid(at.Child("port"), p.Port.StrVal, utilvalidation.IsValidPortName(p.Port.StrVal))...)
	}
	return errs
}

func validatePeer(p networkingv1.NetworkPolicyPeer, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	options := unversioned.LabelSelectorValidationOptions{}
	if p.PodSelector != nil {
		errs = append(errs, unversioned.ValidateLabelSelector(p.PodSelector, options, at.Child("podSelector"))...)
	}
	if p.NamespaceSelector != nil {
		errs = append(errs, unversioned.ValidateLabelSelector(p.NamespaceSelector, options, at.Child("namespaceSelector"))...)
	}
	switch selected := p.PodSelector != nil || p.NamespaceSelector != nil; {
	case p.IPBlock == nil && !selected:
		errs = append(errs, field.Required(at, "must specify a peer"))
	case p.IPBlock != nil && selected:
		errs = append(errs, field.Forbidden(at, "may not specify both ipBlock and another peer"))
	case p.IPBlock != nil:
		errs = append(errs, validateBlock(p.IPBlock, at.Child("ipBlock"))...)
	}
	return errs
}

func validateBlock(b *networkingv1.IPBlock, at *field.Path) field.ErrorList {
	if b.CIDR == "" {
		return field.ErrorList{field.Required(at.Child("cidr"), "")}
	}
	errs := utilvalidation.IsValidCIDRForLegacyField(at.Child("cidr"), b.CIDR, true, nil)
	outer, err := netip.ParsePrefix(b.CIDR)
	if err != nil {
		return errs
	}
	for i, text := range b.Except {
		to := at.Child("except").Index(i)
		bad := utilvalidation.IsValidCIDRForLegacyField(to, text, true, nil)
		errs = append(errs, bad...)
		inner, err := netip.ParsePrefix(text)
		if err == nil && (!outer.Contains(inner.Addr()) || outer.Bits() >= inner.Bits()) {
			errs = append(errs, field.Invalid(to, text, "must be a strict subset of `cidr`"))
		}
	}
	return errs
}
