package networking

import (
	"fmt"
	"net/netip"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kontiki/apiserver/kind"
)

func ingresses() kind.Definition {
	return &kind.Kind[*networkingv1.Ingress]{
		Resource: "ingresses", Singular: "ingress", ShortNames: []string{"ing"},
		New:        func() *networkingv1.Ingress { return &networkingv1.Ingress{} },
		NewList:    func() runtime.Object { return &networkingv1.IngressList{} },
		Generation: func(i *networkingv1.Ingress) any { return i.Spec },
		Warn:       warnIngress,
		Validate:   func(i *networkingv1.Ingress) field.ErrorList { return validateIngress(&i.Spec) },
		Status:     &kind.Status[*networkingv1.Ingress]{Warn: warnIngressStatus},
		Columns: []metav1.TableColumnDefinition{
			kind.NameColumn,
			kind.Column("Class", "The name of the IngressClass resource that should be used for additional configuration"),
			kind.Column("Hosts", "Hosts that incoming requests are matched against before the ingress rule"),
			kind.Column("Address", "Address is a list containing ingress points for the load-balancer"),
			kind.Column("Ports", "Ports of TLS configurations that open"),
			kind.AgeColumn,
		},
		Cells: func(i *networkingv1.Ingress) []any {
			ports := "80"
			if len(i.Spec.TLS) > 0 {
				ports = "80, 443"
			}
			var addresses []string
			for _, a := range i.Status.LoadBalancer.Ingress {
				if a.IP != "" {
					addresses = append(addresses, a.IP)
				} else if a.Hostname != "" {
					addresses = append(addresses, a.Hostname)
				}
			}
			return []any{i.Name, kind.Or(i.Spec.IngressClassName, "<none>"), hostsOf(i.Spec.Rules), strings.Join(addresses, ","), ports, kind.Age(i.CreationTimestamp)}
		},
	}
}

func hostsOf(rules []networkingv1.IngressRule) string {
	const most = 3
	var hosts []string
	more := false
	for _, r := range rules {
		if len(hosts) == most {
			more = true
		}
		if !more && r.Host != "" {
			hosts = append(hosts, r.Host)
		}
	}
	if len(hosts) == 0 {
		return "*"
	}
	out := strings.Join(hosts, ",")
	if more {
		out += fmt.Sprintf(" + %d more...", len(rules)-most)
	}
	return out
}

func validateIngress(s *networkingv1.IngressSpec) field.ErrorList {
	at := field.NewPath("spec")
	var errs field.ErrorList
	if len(s.Rules) == 0 && s.DefaultBackend == nil {
		errs = append(errs, field.Invalid(at, s.Rules, "either `defaultBackend` or `rules` must be specified"))
	}
	if s.DefaultBackend != nil {
		errs = append(errs, validateBackend(s.DefaultBackend, at.Child("defaultBackend"))...)
	}
	for i, r := range s.Rules {
		to := at.Child("rules").Index(i)
		if r.Host != "" {
			errs = append(errs, validateHost(r.Host, to.Child("host"))...)
		}
		if r.HTTP != nil {
			errs = append(errs, validatePaths(r.HTTP, to.Child("http"))...)
		}
	}
	for i, t := range s.TLS {
		for j, host := range t.Hosts {
			errs = append(errs, validateHost(host, at.Child("tls").Index(i).Child("hosts").Index(j))...)
		}
	}
	if n := s.IngressClassName; n != nil {
		errs = append(errs, kind.Invalid(at.Child("ingressClassName"), *n, validation.NameIsDNSSubdomain(*n, false))...)
	}
	return errs
}

func validateHost(host string, at *field.Path) field.ErrorList {
	if _, err := netip.ParseAddr(host); err == nil {
		return field.ErrorList{field.Invalid(at, host, "must be a DNS name, not an IP address")}
	}
	if strings.Contains(host, "*") {
		return kind.Invalid(at, host, utilvalidation.IsWildcardDNS1123Subdomain(host))
	}
	return kind.Invalid(at, host, utilvalidation.IsDNS1123Subdomain(host))
}

func validatePaths(h *networkingv1.HTTPIngressRuleValue, at *field.Path) field.ErrorList {
	if len(h.Paths) == 0 {
		return field.ErrorList{field.Required(at.Child("paths"), "")}
	}
	var errs field.ErrorList
	for i, p := range h.Paths {
		to := at.Child("paths").Index(i)
		errs = append(errs, validatePath(&p, to)...)
		errs = append(errs, validateBackend(&p.Backend, to.Child("backend"))...)
	}
	return errs
}

func validatePath(p *networkingv1.HTTPIngressPath, at *field.Path) field.ErrorList {
	if p.PathType == nil {
		return field.ErrorList{field.Required(at.Child("pathType"), "pathType must be specified")}
	}
	var errs field.ErrorList
	to := at.Child("path")
	switch *p.PathType {
	case networkingv1.PathTypeExact, networkingv1.PathTypePrefix:
		if !strings.HasPrefix(p.Path, "/") {
			errs = append(errs, field.Invalid(to, p.Path, "must be an absolute path"))
		}
		for _, bad := range []string{"//", "/./", "/../", "%2f", "%2F"} {
			if strings.Contains(p.Path, bad) {
				errs = append(errs, field.Invalid(to, p.Path, fmt.Sprintf("must not contain '%s'", bad)))
			}
		}
		for _, bad := range []string{"/..", "/."} {
			if strings.HasSuffix(p.Path, bad) {
				errs = append(errs, field.Invalid(to, p.Path, fmt.Sprintf("cannot end with '%s'", bad)))
			}
		}
	case networkingv1.PathTypeImplementationSpecific:
		if p.Path != "" && !strings.HasPrefix(p.Path, "/") {
			errs = append(errs, field.Invalid(to, p.Path, "must be an absolute path"))
		}
	default:
		errs = append(errs, kind.Supported(*p.PathType, at.Child("pathType"),
			networkingv1.PathTypeExact, networkingv1.PathTypeImplementationSpecific, networkingv1.PathTypePrefix)...)
	}
	return errs
}

func validateBackend(b *networkingv1.IngressBackend, at *field.Path) field.ErrorList {
	switch {
	case b.Resource != nil && b.Service != nil:
		return field.ErrorList{field.Invalid(at, "", "cannot set both resource and service backends")}
	case b.Resource != nil:
		return nil
	case b.Service == nil:
		return field.ErrorList{field.Invalid(at, "", "resource or service backend is required")}
	}
	var errs field.ErrorList
	to := at.Child("service")
	if b.Service.Name == "" {
		errs = append(errs, field.Required(to.Child("name"), ""))
	} else {
		errs = append(errs, kind.Invalid(to.Child("name"), b.Service.Name, utilvalidation.IsDNS1035Label(b.Service.Name))...)
	}
	port := to.Child("port")
	switch hasName, hasNumber := b.Service.Port.Name != "", b.Service.Port.Number != 0; {
	case hasName && hasNumber:
		errs = append(errs, field.Invalid(at, "", "cannot set both port name & port number"))
	case hasName:
		errs = append(errs, kind.Invalid(port.Child("name"), b.Service.Port.Name, utilvalidation.IsValidPortName(b.Service.Port.Name))...)
	case hasNumber:
		errs = append(errs, kind.Invalid(port.Child("number"), b.Service.Port.Number, utilvalidation.IsValidPortNum(int(b.Service.Port.Number)))...)
	default:
		errs = append(errs, field.Required(at, "port name or number is required"))
	}
	return errs
}
