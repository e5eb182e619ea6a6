package discovery

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kontiki/apiserver/core"
	"kontiki/apiserver/kind"
)

const (
	maxEndpoints = 1000
	maxPorts     = 20000
	maxAddresses = 100
	maxHints     = 8
)

func endpointSlices() kind.Definition {
	return &kind.Kind[*discoveryv1.EndpointSlice]{
		Resource: "endpointslices", Singular: "endpointslice",
		New:     func() *discoveryv1.EndpointSlice { return &discoveryv1.EndpointSlice{} },
		NewList: func() runtime.Object { return &discoveryv1.EndpointSliceList{} },
		Generation: func(s *discoveryv1.EndpointSlice) any {
			return struct {
				Endpoints []discoveryv1.Endpoint
				Ports     []discoveryv1.EndpointPort
				Labels    map[string]string
			}{s.Endpoints, s.Ports, s.Labels}
		},
		Default:  defaultSlice,
		Validate: validateSlice,
		Warn:     warnSlice,
		ValidateUpdate: func(s, old *discoveryv1.EndpointSlice) field.ErrorList {
			return append(validateSlice(s), validation.ValidateImmutableField(s.AddressType, old.AddressType, field.NewPath("addressType"))...)
		},
		Columns: []metav1.TableColumnDefinition{
			kind.NameColumn,
			kind.Column("AddressType", discoveryv1.EndpointSlice{}.SwaggerDoc()["addressType"]),
			kind.Column("Ports", discoveryv1.EndpointSlice{}.SwaggerDoc()["ports"]),
			kind.Column("Endpoints", discoveryv1.EndpointSlice{}.SwaggerDoc()["endpoints"]),
			kind.AgeColumn,
		},
		Cells: func(s *discoveryv1.EndpointSlice) []any {
			return []any{s.Name, string(s.AddressType), formatPorts(s.Ports), formatEndpoints(s.Endpoints), kind.Age(s.CreationTimestamp)}
		},
	}
}

func defaultSlice(s *discoveryv1.EndpointSlice) {
	for i := range s.Ports {
		p := &s.Ports[i]
		if p.Name == nil {
			p.Name = new(string)
		}
		if p.Protocol == nil {
			tcp := corev1.ProtocolTCP
			p.Protocol = &tcp
		}
	}
}

func validateSlice(s *discoveryv1.EndpointSlice) field.ErrorList {
	var errs field.ErrorList
	types := []discoveryv1.AddressType{discoveryv1.AddressTypeFQDN, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6}
	switch s.AddressType {
	case "":
		errs = append(errs, field.Required(field.NewPath("addressType"), ""))
	case discoveryv1.AddressTypeFQDN, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6:
	default:
		errs = append(errs, field.NotSupported(field.NewPath("addressType"), s.AddressType, types))
	}
	path := field.NewPath("endpoints")
	if len(s.Endpoints) > maxEndpoints {
		return append(errs, field.TooMany(path, len(s.Endpoints), maxEndpoints))
	}
	for i := range s.Endpoints {
		errs = append(errs, validateEndpoint(&s.Endpoints[i], s.AddressType, path.Index(i))...)
	}
	return append(errs, validatePorts(s.Ports, field.NewPath("ports"))...)
}

func validateEndpoint(e *discoveryv1.Endpoint, t discoveryv1.AddressType, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	at := path.Child("addresses")
	switch {
	case len(e.Addresses) == 0:
		errs = append(errs, field.Required(at, ""))
	case len(e.Addresses) > maxAddresses:
		errs = append(errs, field.TooMany(at, len(e.Addresses), maxAddresses))
	}
	for i, a := range e.Addresses {
		errs = append(errs, validateAddress(a, t, at, i)...)
	}
	if e.NodeName != nil {
		errs = append(errs, messages(path.Child("nodeName"), *e.NodeName, validation.NameIsDNSSubdomain(*e.NodeName, false))...)
	}
	if e.Hostname != nil {
		errs = append(errs, messages(path.Child("hostname"), *e.Hostname, utilvalidation.IsDNS1123Label(*e.Hostname))...)
	}
	if h := e.Hints; h != nil {
		to := path.Child("hints", "forZones")
		if len(h.ForZones) > maxHints {
			errs = append(errs, field.TooMany(to, len(h.ForZones), maxHints))
		}
		seen := sets.New[string]()
		for i, z := range h.ForZones {
			if seen.Has(z.Name) {
				errs = append(errs, field.Duplicate(to.Index(i).Child("name"), z.Name))
			}
			seen.Insert(z.Name)
			errs = append(errs, messages(to.Index(i).Child("name"), z.Name, utilvalidation.IsValidLabelValue(z.Name))...)
		}
	}
	return errs
}

func validateAddress(a string, t discoveryv1.AddressType, at *field.Path, i int) field.ErrorList {
	switch t {
	case discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6:
		errs := utilvalidation.IsValidIPForLegacyField(at.Index(i), a, true, nil)
		ip, err := netip.ParseAddr(a)
		if err != nil {
			return errs
		}
		if ip.Is4() != (t == discoveryv1.AddressTypeIPv4) {
			errs = append(errs, field.Invalid(at, a, fmt.Sprintf("must be an %s address", t)))
		}
		return append(errs, core.ValidateEndpointIP(a, at.Index(i))...)
	case discoveryv1.AddressTypeFQDN:
		return utilvalidation.IsFullyQualifiedDomainName(at.Index(i), a)
	}
	return nil
}

func validatePorts(ports []discoveryv1.EndpointPort, path *field.Path) field.ErrorList {
	if len(ports) > maxPorts {
		return field.ErrorList{field.TooMany(path, len(ports), maxPorts)}
	}
	var errs field.ErrorList
	names := sets.New[string]()
	for i, p := range ports {
		at := path.Index(i)
		name := ""
		if p.Name != nil {
			name = *p.Name
		}
		if name != "" {
			errs = append(errs, messages(at.Child("name"), name, utilvalidation.IsDNS1123Label(name))...)
		}
		if names.Has(name) {
			errs = append(errs, field.Duplicate(at.Child("name"), p.Name))
		}
		names.Insert(name)
		if p.Protocol == nil {
			errs = append(errs, field.Required(at.Child("protocol"), ""))
		} else if known := []corev1.Protocol{corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP}; !sets.New(known...).Has(*p.Protocol) {
			errs = append(errs, field.NotSupported(at.Child("protocol"), *p.Protocol, known))
		}
		if p.AppProtocol != nil {
			errs = append(errs, messages(at.Child("appProtocol"), *p.AppProtocol, utilvalidation.IsQualifiedName(*p.AppProtocol))...)
		}
	}
	return errs
}

func messages(at *field.Path, value any, list []string) field.ErrorList {
	var errs field.ErrorList
	for _, m := range list {
		errs = append(errs, field.Invalid(at, value, m))
	}
	return errs
}

const shown = 3

func formatPorts(ports []discoveryv1.EndpointPort) string {
	if len(ports) == 0 {
		return "<unset>"
	}
	var list []string
	for i, p := range ports {
		if i == shown {
			return fmt.Sprintf("%s + %d more...", strings.Join(list, ","), len(ports)-shown)
		}
		switch {
		case p.Port != nil:
			list = append(list, strconv.Itoa(int(*p.Port)))
		case p.Name != nil:
			list = append(list, *p.Name)
		default:
			list = append(list, "*")
		}
	}
	return strings.Join(list, ",")
}

func formatEndpoints(endpoints []discoveryv1.Endpoint) string {
	var list []string
	n := 0
	for _, e := range endpoints {
		for _, a := range e.Addresses {
			if n++; n <= shown {
				list = append(list, a)
			}
		}
	}
	switch {
	case n == 0:
		return "<unset>"
	case n > shown:
		return fmt.Sprintf("%s + %d more...", strings.Join(list, ","), n-shown)
	}
	return strings.Join(list, ",")
}
