// Package networking is the API groups networking.k8s.io and node.k8s.io: who
// may speak to whom, ways in, and how containers are run.
//
// Everything here is called by any number of goroutines. Only apiserver imports it.
package networking

import (
	"fmt"
	"net/netip"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	unversioned "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kontiki/apiserver/kind"
)

// Group describes networking.k8s.io.
func Group() kind.Group {
	return kind.Group{
		Name:        networkingv1.GroupName,
		Versions:    []string{"v1"},
		AddToScheme: networkingv1.AddToScheme,
		Kinds: map[string][]kind.Definition{"v1": {
			networkPolicies(), ingresses(), ingressClasses(), serviceCIDRs(), ipAddresses(),
		}},
	}
}

// NodeGroup describes node.k8s.io.
func NodeGroup() kind.Group {
	return kind.Group{
		Name:        nodev1.GroupName,
		Versions:    []string{"v1"},
		AddToScheme: nodev1.AddToScheme,
		Kinds:       map[string][]kind.Definition{"v1": {runtimeClasses()}},
	}
}

func ingressClasses() kind.Definition {
	return &kind.Kind[*networkingv1.IngressClass]{
		Resource: "ingressclasses", Singular: "ingressclass",
		Cluster:    true,
		New:        func() *networkingv1.IngressClass { return &networkingv1.IngressClass{} },
		NewList:    func() runtime.Object { return &networkingv1.IngressClassList{} },
		Generation: func(c *networkingv1.IngressClass) any { return c.Spec },
		Default: func(c *networkingv1.IngressClass) {
			if p := c.Spec.Parameters; p != nil {
				kind.SetDefaultPtr(&p.Scope, networkingv1.IngressClassParametersReferenceScopeCluster)
			}
		},
		Validate: func(c *networkingv1.IngressClass) field.ErrorList {
			at := field.NewPath("spec", "controller")
			if len(c.Spec.Controller) > 250 {
				return field.ErrorList{field.TooLong(at, "" /*unused*/, 250)}
			}
			errs := utilvalidation.IsDomainPrefixedPath(at, c.Spec.Controller)
			return append(errs, validateParameters(c.Spec.Parameters, field.NewPath("spec", "parameters"))...)
		},
		ValidateUpdate: func(c, old *networkingv1.IngressClass) field.ErrorList {
			errs := validateParameters(c.Spec.Parameters, field.NewPath("spec", "parameters"))
			return append(errs, validation.ValidateImmutableField(c.Spec.Controller, old.Spec.Controller, field.NewPath("spec", "controller"))...)
		},
		Columns: []metav1.TableColumnDefinition{
			kind.NameColumn,
			kind.Column("Controller", "Controller that is responsible for handling this class"),
			kind.Column("Parameters", "A reference to a resource with additional parameters"),
			kind.AgeColumn,
		},
		Cells: func(c *networkingv1.IngressClass) []any {
			parameters := "<none>"
			if p := c.Spec.Parameters; p != nil {
				parameters = p.Kind
				if p.APIGroup != nil {
					parameters += "." + *p.APIGroup
				}
				parameters += "/" + p.Name
			}
			return []any{c.Name, c.Spec.Controller, parameters, kind.Age(c.CreationTimestamp)}
		},
	}
}

func validateParameters(p *networkingv1.IngressClassParametersReference, at *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	var errs field.ErrorList
	if p.APIGroup != nil {
		errs = append(errs, kind.Invalid(at.Child("apiGroup"), *p.APIGroup, utilvalidation.IsDNS1123Subdomain(*p.APIGroup))...)
	}
	for _, part := range []struct{ name, value string }{{"kind", p.Kind}, {"name", p.Name}} {
		if part.value == "" {
			errs = append(errs, field.Required(at.Child(part.name), ""))
		} else {
			errs = append(errs, kind.Invalid(at.Child(part.name), part.value, path.IsValidPathSegmentName(part.value))...)
		}
	}
	cluster, namespaced := networkingv1.IngressClassParametersReferenceScopeCluster, networkingv1.IngressClassParametersReferenceScopeNamespace
	scope := kind.Or(p.Scope, "")
	errs = append(errs, kind.OneOf(scope, at.Child("scope"), cluster, namespaced)...)
	switch {
	case scope == namespaced && p.Namespace == nil:
		errs = append(errs, field.Required(at.Child("namespace"), "`parameters.scope` is set to 'Namespace'"))
	case scope == namespaced:
		errs = append(errs, kind.Invalid(at.Child("namespace"), *p.Namespace, validation.ValidateNamespaceName(*p.Namespace, false))...)
	case scope == cluster && p.Namespace != nil:
		errs = append(errs, field.Forbidden(at.Child("namespace"), "`parameters.scope` is set to 'Cluster'"))
	}
	return errs
}

func serviceCIDRs() kind.Definition {
	return &kind.Kind[*networkingv1.ServiceCIDR]{
		Resource: "servicecidrs", Singular: "servicecidr",
		Cluster: true,
		New:     func() *networkingv1.ServiceCIDR { return &networkingv1.ServiceCIDR{} },
		NewList: func() runtime.Object { return &networkingv1.ServiceCIDRList{} },
		Validate: func(c *networkingv1.ServiceCIDR) field.ErrorList {
			return validateServiceCIDRs(c.Spec.CIDRs)
		},
		ValidateUpdate: func(c, old *networkingv1.ServiceCIDR) field.ErrorList {
			return validateServiceCIDRUpdate(c.Spec.CIDRs, old.Spec.CIDRs)
		},
		Status: &kind.Status[*networkingv1.ServiceCIDR]{},
		Columns: []metav1.TableColumnDefinition{
			kind.NameColumn,
			kind.Column("CIDRs", networkingv1.ServiceCIDRSpec{}.SwaggerDoc()["cidrs"]),
			kind.AgeColumn,
		},
		Cells: func(c *networkingv1.ServiceCIDR) []any {
			return []any{c.Name, strings.Join(c.Spec.CIDRs, ","), kind.Age(c.CreationTimestamp)}
		},
	}
}

func validateServiceCIDRs(cidrs []string) field.ErrorList {
	at := field.NewPath("spec", "cidrs")
	if len(cidrs) == 0 {
		return field.ErrorList{field.Required(at, "at least one CIDR required")}
	}
	if len(cidrs) > 2 {
		return field.ErrorList{field.Invalid(at, networkingv1.ServiceCIDRSpec{CIDRs: cidrs}, "may only hold up to 2 values")}
	}
	var errs field.ErrorList
	for i, text := range cidrs {
		errs = append(errs, utilvalidation.IsValidCIDR(at.Index(i), text)...)
	}
	if len(errs) == 0 && len(cidrs) > 1 && !oneOfEach(cidrs) {
		errs = append(errs, field.Invalid(at, cidrs, "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"))
	}
	return errs
}

// validateServiceCIDRUpdate lets a second range come, of the other family, and nothing else.
func validateServiceCIDRUpdate(cidrs, old []string) field.ErrorList {
	at := field.NewPath("spec", "cidrs")
	kept := len(cidrs) == len(old)
	if !kept && (len(old) != 1 || len(cidrs) != 2) {
		return field.ErrorList{field.Invalid(at, cidrs, validation.FieldImmutableErrorMsg)}
	}
	var errs field.ErrorList
	for i := range old {
		if cidrs[i] != old[i] {
			errs = append(errs, field.Invalid(at.Index(i), cidrs[i], validation.FieldImmutableErrorMsg))
		}
	}
	if !kept {
		errs = append(errs, validateServiceCIDRs(cidrs)...)
	}
	return errs
}

// oneOfEach tells a range of each address family.
func oneOfEach(cidrs []string) bool {
	families := map[bool]int{}
	for _, text := range cidrs {
		if p, err := netip.ParsePrefix(text); err == nil {
			families[p.Addr().Is4()]++
		}
	}
	return len(cidrs) == 2 && families[true] == 1 && families[false] == 1
}

func ipAddresses() kind.Definition {
	return &kind.Kind[*networkingv1.IPAddress]{
		Resource: "ipaddresses", Singular: "ipaddress", ShortNames: []string{"ip"},
		Cluster: true,
		New:     func() *networkingv1.IPAddress { return &networkingv1.IPAddress{} },
		NewList: func() runtime.Object { return &networkingv1.IPAddressList{} },
		Name: func(name string, _ bool) []string {
			addr, err := netip.ParseAddr(name)
			switch {
			case err != nil:
				return []string{"must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"}
			case addr.String() != name:
				return []string{fmt.Sprintf("must be in canonical form (%q)", addr)}
			}
			return nil
		},
		Validate: func(a *networkingv1.IPAddress) field.ErrorList {
			at := field.NewPath("spec", "parentRef")
			ref := a.Spec.ParentRef
			if ref == nil {
				return field.ErrorList{field.Required(at, "")}
			}
			var errs field.ErrorList
			for _, part := range []struct{ name, value string }{{"resource", ref.Resource}, {"name", ref.Name}} {
				if part.value == "" {
					errs = append(errs, field.Required(at.Child(part.name), ""))
				}
			}
			return errs
		},
		ValidateUpdate: func(a, old *networkingv1.IPAddress) field.ErrorList {
			return validation.ValidateImmutableField(a.Spec.ParentRef, old.Spec.ParentRef, field.NewPath("spec", "parentRef"))
		},
		Columns: []metav1.TableColumnDefinition{
			kind.NameColumn,
			kind.Column("ParentRef", networkingv1.IPAddressSpec{}.SwaggerDoc()["parentRef"]),
		},
		Cells: func(a *networkingv1.IPAddress) []any {
			return []any{a.Name, refOf(a.Spec.ParentRef)}
		},
	}
}

func refOf(r *networkingv1.ParentReference) string {
	if r == nil {
		return "<none>"
	}
	resource := r.Resource
	if r.Group != "" {
		resource += "." + r.Group
	}
	return fmt.Sprintf("%s/%s/%s", resource, r.Namespace, r.Name)
}

func runtimeClasses() kind.Definition {
	return &kind.Kind[*nodev1.RuntimeClass]{
		Resource: "runtimeclasses", Singular: "runtimeclass",
		Cluster: true,
		New:     func() *nodev1.RuntimeClass { return &nodev1.RuntimeClass{} },
		Warn:    warnRuntimeClass,
		NewList: func() runtime.Object { return &nodev1.RuntimeClassList{} },
		Validate: func(c *nodev1.RuntimeClass) field.ErrorList {
			errs := kind.Invalid(field.NewPath("handler"), c.Handler, utilvalidation.IsDNS1123Label(c.Handler))
			if s := c.Scheduling; s != nil {
				errs = append(errs, unversioned.ValidateLabels(s.NodeSelector, field.NewPath("scheduling", "nodeSelector"))...)
			}
			if c.Overhead != nil {
				at := field.NewPath("overhead", "limits") // upstream checks it as limits of a container
				for name, q := range c.Overhead.PodFixed {
					if q.Sign() < 0 {
						errs = append(errs, field.Invalid(at.Key(string(name)), q.String(), validation.IsNegativeErrorMsg))
					}
				}
			}
			return errs
		},
		ValidateUpdate: func(c, old *nodev1.RuntimeClass) field.ErrorList {
			if !apiequality.Semantic.DeepEqual(c.Handler, old.Handler) {
				return validation.ValidateImmutableField(c.Handler, old.Handler, field.NewPath("handler"))
			}
			return nil
		},
		Columns: []metav1.TableColumnDefinition{
			kind.NameColumn,
			kind.Column("Handler", nodev1.RuntimeClass{}.SwaggerDoc()["handler"]),
			kind.AgeColumn,
		},
		Cells: func(c *nodev1.RuntimeClass) []any {
			return []any{c.Name, c.Handler, kind.Age(c.CreationTimestamp)}
		},
	}
}
