package core

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kontiki/apiserver/kind"
)

//nolint:staticcheck // Endpoints is deprecated, and clients still use it.
func endpoints() kind.Definition {
	return &kind.Kind[*corev1.Endpoints]{
		Resource: "endpoints", Singular: "endpoints", ShortNames: []string{"ep"},
		New:      func() *corev1.Endpoints { return &corev1.Endpoints{} },
		NewList:  func() runtime.Object { return &corev1.EndpointsList{} },
		Default:  defaultEndpoints,
		Validate: validateEndpoints,
		Warn:     warnEndpoints,
		Columns: []metav1.TableColumnDefinition{
			kind.NameColumn,
			kind.Column("Endpoints", corev1.Endpoints{}.SwaggerDoc()["subsets"]),
			kind.AgeColumn,
		},
		Cells: func(e *corev1.Endpoints) []any {
			return []any{e.Name, formatSubsets(e.Subsets), kind.Age(e.CreationTimestamp)}
		},
	}
}

//nolint:staticcheck // as above
func defaultEndpoints(e *corev1.Endpoints) {
	for i := range e.Subsets {
		for j := range e.Subsets[i].Ports {
			orDefault(&e.Subsets[i].Ports[j].Protocol, corev1.ProtocolTCP)
		}
	}
}

//nolint:staticcheck // as above
func validateEndpoints(e *corev1.Endpoints) field.ErrorList {
	var errs field.ErrorList
	for i, s := range e.Subsets {
		at := field.NewPath("subsets").Index(i)
		if len(s.Addresses) == 0 && len(s.NotReadyAddresses) == 0 {
			errs = append(errs, field.Required(at, "must specify `addresses` or `notReadyAddresses`"))
		}
		for j, a := range s.Addresses {
			errs = append(errs, validateEndpointAddress(a, at.Child("addresses").Index(j))...)
		}
		for j, a := range s.NotReadyAddresses {
			errs = append(errs, validateEndpointAddress(a, at.Child("notReadyAddresses").Index(j))...)
		}
		for j, p := range s.Ports {
			to := at.Child("ports").Index(j)
			switch {
			case p.Name == "" && len(s.Ports) > 1:
				errs = append(errs, field.Required(to.Child("name"), ""))
			case p.Name != "":
				errs = append(errs, validateDNS1123Label(p.Name, to.Child("name"))...)
			}
			errs = append(errs, invalidFor(to.Child("port"), p.Port, utilvalidation.IsValidPortNum(int(p.Port)))...)
			errs = append(errs, oneOf(p.Protocol, to.Child("protocol"), protocols...)...)
		}
	}
	return errs
}

//nolint:staticcheck // as above
func validateEndpointAddress(a corev1.EndpointAddress, at *field.Path) field.ErrorList {
	errs := utilvalidation.IsValidIPForLegacyField(at.Child("ip"), a.IP, true, nil)
	if len(errs) > 0 { // upstream asks twice
		errs = append(errs, field.Invalid(at.Child("ip"), a.IP, "must be a valid IP address"))
	}
	if a.Hostname != "" {
		errs = append(errs, validateDNS1123Label(a.Hostname, at.Child("hostname"))...)
	}
	if a.NodeName != nil {
		errs = append(errs, validateNodeName(*a.NodeName, at.Child("nodeName"))...)
	}
	if len(errs) == 0 {
		errs = append(errs, ValidateEndpointIP(a.IP, at.Child("ip"))...)
	}
	return errs
}

// ValidateEndpointIP refuses addresses that never are an endpoint.
func ValidateEndpointIP(s string, at *field.Path) field.ErrorList {
	ip, err := netip.ParseAddr(s)
	if err != nil {
		return field.ErrorList{field.Invalid(at, s, "must be a valid IP address")}
	}
	var errs field.ErrorList
	deny := func(on bool, msg string) {
		if on {
			errs = append(errs, field.Invalid(at, s, msg))
		}
	}
	deny(ip.IsUnspecified(), fmt.Sprintf("may not be unspecified (%v)", s))
	deny(ip.IsLoopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)")
	deny(ip.IsLinkLocalUnicast(), "may not be in the link-local range (169.254.0.0/16, fe80::/10)")
	deny(ip.IsLinkLocalMulticast(), "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")
	return errs
}

// formatSubsets shows three addresses and counts the rest.
//
//nolint:staticcheck // as above
func formatSubsets(subsets []corev1.EndpointSubset) string {
	const shown = 3
	var list []string
	count := 0
	for _, s := range subsets {
		if len(s.Ports) == 0 {
			for _, a := range s.Addresses {
				if count++; count <= shown {
					list = append(list, a.IP)
				}
			}
			continue
		}
		for _, p := range s.Ports {
			for _, a := range s.Addresses {
				if count++; count <= shown {
					list = append(list, net.JoinHostPort(a.IP, strconv.Itoa(int(p.Port))))
				}
			}
		}
	}
	if count == 0 {
		return "<none>"
	}
	out := strings.Join(list, ",")
	if count > shown {
		return fmt.Sprintf("%s + %d more...", out, count-shown)
	}
	return out
}
