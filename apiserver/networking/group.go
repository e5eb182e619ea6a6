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
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
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
			return utilvalidation.IsDomainPrefixedPath(at, c.Spec.Controller)
		},
		ValidateUpdate: func(c, old *networkingv1.IngressClass) field.ErrorList {
			return validation.ValidateImmutableField(c.Spec.Controller, old.Spec.Controller, field.NewPath("spec", "controller"))
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

func serviceCIDRs() kind.Definition {
	return &kind.Kind[*networkingv1.ServiceCIDR]{
		Resource: "servicecidrs", Singular: "servicecidr",
		Cluster: true,
		New:     func() *networkingv1.ServiceCIDR { return &networkingv1.ServiceCIDR{} },
		NewList: func() runtime.Object { return &networkingv1.ServiceCIDRList{} },
		Validate: func(c *networkingv1.ServiceCIDR) field.ErrorList {
			at := field.NewPath("spec", "cidrs")
			if len(c.Spec.CIDRs) == 0 {
				return field.ErrorList{field.Required(at, "at least one CIDR required")}
			}
			var errs field.ErrorList
			for i, text := range c.Spec.CIDRs {
				errs = append(errs, utilvalidation.IsValidCIDR(at.Index(i), text)...)
			}
			return errs
		},
		ValidateUpdate: func(c, old *networkingv1.ServiceCIDR) field.ErrorList {
			return validation.ValidateImmutableField(c.Spec.CIDRs, old.Spec.CIDRs, field.NewPath("spec", "cidrs"))
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

func ipAddresses() kind.Definition {
	return &kind.Kind[*networkingv1.IPAddress]{
		Resource: "ipaddresses", Singular: "ipaddress", ShortNames: []string{"ip"},
		Cluster: true,
		New:     func() *networkingv1.IPAddress { return &networkingv1.IPAddress{} },
		NewList: func() runtime.Object { return &networkingv1.IPAddressList{} },
		Name: func(name string, _ bool) []string {
			if addr, err := netip.ParseAddr(name); err != nil || addr.String() != name {
				return []string{"must be a canonical form IP address"}
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
		Fields: func(a *networkingv1.IPAddress) fields.Set {
			return fields.Set{"spec.parentRef": refOf(a.Spec.ParentRef)}
		},
		Columns: []metav1.TableColumnDefinition{
			kind.NameColumn,
			kind.Column("ParentRef", networkingv1.IPAddressSpec{}.SwaggerDoc()["parentRef"]),
			kind.AgeColumn,
		},
		Cells: func(a *networkingv1.IPAddress) []any {
			return []any{a.Name, refOf(a.Spec.ParentRef), kind.Age(a.CreationTimestamp)}
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
		NewList: func() runtime.Object { return &nodev1.RuntimeClassList{} },
		Validate: func(c *nodev1.RuntimeClass) field.ErrorList {
			errs := kind.Invalid(field.NewPath("handler"), c.Handler, utilvalidation.IsDNS1123Label(c.Handler))
			if c.Overhead != nil {
				at := field.NewPath("overhead", "podFixed")
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
