package core

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	unversioned "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kontiki/apiserver/allocate"
)

var serviceTypes = []corev1.ServiceType{corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort}

func validateService(s *corev1.Service) field.ErrorList {
	spec := field.NewPath("spec")
	var errs field.ErrorList
	if len(s.Spec.Ports) == 0 && !headless(s) && s.Spec.Type != corev1.ServiceTypeExternalName {
		errs = append(errs, field.Required(spec.Child("ports"), ""))
	}
	switch s.Spec.Type {
	case corev1.ServiceTypeLoadBalancer:
		for i, p := range s.Spec.Ports {
			// Upstream keeps the port of the kubelet off load balancers.
			if p.Port == 10250 {
				errs = append(errs, field.Invalid(spec.Child("ports").Index(i), p.Port, fmt.Sprintf("may not expose port %v externally since it is used by kubelet", 10250)))
			}
		}
		if s.Spec.ClusterIP == corev1.ClusterIPNone {
			errs = append(errs, field.Invalid(spec.Child("clusterIPs").Index(0), s.Spec.ClusterIP, "may not be set to 'None' for LoadBalancer services"))
		}
	case corev1.ServiceTypeNodePort:
		if s.Spec.ClusterIP == corev1.ClusterIPNone {
			errs = append(errs, field.Invalid(spec.Child("clusterIPs").Index(0), s.Spec.ClusterIP, "may not be set to 'None' for NodePort services"))
		}
	case corev1.ServiceTypeExternalName:
		if len(s.Spec.ClusterIPs) > 0 {
			errs = append(errs, field.Forbidden(spec.Child("clusterIPs"), "may not be set for ExternalName services"))
		}
		if name := strings.TrimSuffix(s.Spec.ExternalName, "."); name != "" {
			errs = append(errs, invalidFor(spec.Child("externalName"), name, utilvalidation.IsDNS1123Subdomain(name))...)
		} else {
			errs = append(errs, field.Required(spec.Child("externalName"), ""))
		}
	}
	names := sets.New[string]()
	for i := range s.Spec.Ports {
		errs = append(errs, validateServicePort(&s.Spec.Ports[i], len(s.Spec.Ports) > 1, names, spec.Child("ports").Index(i))...)
	}
	errs = append(errs, unversioned.ValidateLabels(s.Spec.Selector, spec.Child("selector"))...)
	errs = append(errs, validateSessionAffinity(s, spec)...)
	errs = append(errs, validateClusterIPs(s, spec)...)
	for i, ip := range s.Spec.ExternalIPs {
		at := spec.Child("externalIPs").Index(i)
		if bad := utilvalidation.IsValidIPForLegacyField(at, ip, true, nil); len(bad) > 0 {
			errs = append(errs, bad...)
		} else {
			errs = append(errs, ValidateEndpointIP(ip, at)...)
		}
	}
	errs = append(errs, oneOf(s.Spec.Type, spec.Child("type"), serviceTypes...)...)
	errs = append(errs, duplicatePorts(s, spec.Child("ports"))...)
	return append(errs, validateTraffic(s, spec)...)
}

func validateServicePort(p *corev1.ServicePort, nameRequired bool, names sets.Set[string], at *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case nameRequired && p.Name == "":
		errs = append(errs, field.Required(at.Child("name"), ""))
	case p.Name != "":
		errs = append(errs, validateDNS1123Label(p.Name, at.Child("name"))...)
		if names.Has(p.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), p.Name))
		}
		names.Insert(p.Name)
	}
	errs = append(errs, invalidFor(at.Child("port"), p.Port, utilvalidation.IsValidPortNum(int(p.Port)))...)
	errs = append(errs, oneOf(p.Protocol, at.Child("protocol"), protocols...)...)
	errs = append(errs, validatePortNumOrName(p.TargetPort, at.Child("targetPort"))...)
	if p.AppProtocol != nil {
		errs = append(errs, invalidFor(at.Child("appProtocol"), *p.AppProtocol, utilvalidation.IsQualifiedName(*p.AppProtocol))...)
	}
	return errs
}

func validateSessionAffinity(s *corev1.Service, spec *field.Path) field.ErrorList {
	errs := oneOf(s.Spec.SessionAffinity, spec.Child("sessionAffinity"), corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone)
	at := spec.Child("sessionAffinityConfig")
	switch s.Spec.SessionAffinity {
	case corev1.ServiceAffinityClientIP:
		c := s.Spec.SessionAffinityConfig
		if c == nil || c.ClientIP == nil || c.ClientIP.TimeoutSeconds == nil {
			return append(errs, field.Required(at, fmt.Sprintf("when session affinity type is %s", corev1.ServiceAffinityClientIP)))
		}
		const maximum = 86400
		if t := *c.ClientIP.TimeoutSeconds; t <= 0 || t > maximum {
			errs = append(errs, field.Invalid(at.Child("clientIP", "timeoutSeconds"), t, fmt.Sprintf("must be greater than 0 and less than %d", maximum)))
		}
	case corev1.ServiceAffinityNone:
		if s.Spec.SessionAffinityConfig != nil {
			errs = append(errs, field.Forbidden(at, fmt.Sprintf("must not be set when session affinity is %s", corev1.ServiceAffinityNone)))
		}
	}
	return errs
}

func validateClusterIPs(s *corev1.Service, spec *field.Path) field.ErrorList {
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		var errs field.ErrorList
		if s.Spec.IPFamilyPolicy != nil {
			errs = append(errs, field.Forbidden(spec.Child("ipFamilyPolicy"), "may not be set for ExternalName services"))
		}
		if len(s.Spec.IPFamilies) > 0 {
			errs = append(errs, field.Forbidden(spec.Child("ipFamilies"), "may not be set for ExternalName services"))
		}
		return errs
	}
	return validateFamilies(s, spec)
}

// validateFamilies checks addresses, families and policy of a Service that has a cluster
// IP, also before its families were chosen.
func validateFamilies(s *corev1.Service, spec *field.Path) field.ErrorList {
	var errs field.ErrorList
	ips, at := s.Spec.ClusterIPs, spec.Child("clusterIPs")
	switch {
	case s.Spec.ClusterIP == "" && len(ips) > 0:
		errs = append(errs, field.Invalid(at, ips, "must be empty when `clusterIP` is not specified"))
	case s.Spec.ClusterIP != "" && len(ips) == 0:
		errs = append(errs, field.Required(at, ""))
	case s.Spec.ClusterIP != "" && ips[0] != s.Spec.ClusterIP:
		errs = append(errs, field.Invalid(at, ips, "first value must match `clusterIP`"))
	}
	for i, f := range s.Spec.IPFamilies {
		errs = append(errs, supported(f, spec.Child("ipFamilies").Index(i), corev1.IPv4Protocol, corev1.IPv6Protocol)...)
		if slices.Contains(s.Spec.IPFamilies[:i], f) {
			errs = append(errs, field.Duplicate(spec.Child("ipFamilies").Index(i), f))
		}
	}
	if s.Spec.IPFamilyPolicy != nil {
		errs = append(errs, supported(*s.Spec.IPFamilyPolicy, spec.Child("ipFamilyPolicy"),
			corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack, corev1.IPFamilyPolicySingleStack)...)
	}
	bad := false
	families := map[corev1.IPFamily]int{}
	for i, text := range ips {
		if i == 0 && text == corev1.ClusterIPNone {
			if bad = len(ips) > 1; bad {
				errs = append(errs, field.Invalid(at, ips, "'None' must be the first and only value"))
			}
			continue
		}
		wrong := utilvalidation.IsValidIPForLegacyField(at.Index(i), text, true, nil)
		errs, bad = append(errs, wrong...), bad || len(wrong) > 0
		if ip, err := netip.ParseAddr(text); err == nil {
			families[allocate.Family(ip)]++
		}
	}
	if len(ips) > 2 {
		errs = append(errs, field.Invalid(at, ips, "may only hold up to 2 values"))
	}
	if bad {
		return errs // what follows would only say it again
	}
	if len(ips) > 1 && len(families) < 2 {
		errs = append(errs, field.Invalid(at, ips, "may specify no more than one IP for each IP family"))
	}
	return append(errs, validateFamilyOfEach(s, at)...)
}

// validateFamilyOfEach refuses an address of another family than the one at its place.
func validateFamilyOfEach(s *corev1.Service, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, text := range s.Spec.ClusterIPs {
		ip, err := netip.ParseAddr(text)
		if err != nil || i >= len(s.Spec.IPFamilies) {
			break
		}
		if want := s.Spec.IPFamilies[i]; allocate.Family(ip) != want && allocate.Family(ip) == otherFamily(want) {
			errs = append(errs, field.Invalid(at.Index(i), text, fmt.Sprintf("expected an %s value as indicated by `ipFamilies[%d]`", want, i)))
		}
	}
	return errs
}

// duplicatePorts refuses a node port, or a pair of port and protocol, that one
// Service names twice.
func duplicatePorts(s *corev1.Service, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	type key struct {
		corev1.Protocol
		int32
	}
	if !mayHaveNodePorts(s) {
		for i, p := range s.Spec.Ports {
			if p.NodePort != 0 {
				errs = append(errs, field.Forbidden(path.Index(i).Child("nodePort"), "may not be used when `type` is 'ClusterIP'"))
			}
		}
	}
	nodePorts, ports := sets.New[key](), sets.New[key]()
	for i, p := range s.Spec.Ports {
		at := path.Index(i)
		if p.NodePort != 0 {
			k := key{p.Protocol, p.NodePort}
			if nodePorts.Has(k) {
				errs = append(errs, field.Duplicate(at.Child("nodePort"), p.NodePort))
			}
			nodePorts.Insert(k)
		}
		k := key{p.Protocol, p.Port}
		if ports.Has(k) {
			errs = append(errs, field.Duplicate(at, corev1.ServicePort{Protocol: p.Protocol, Port: p.Port}))
		}
		ports.Insert(k)
	}
	return errs
}

func validateTraffic(s *corev1.Service, spec *field.Path) field.ErrorList {
	var errs field.ErrorList
	if d := s.Spec.TrafficDistribution; d != nil {
		errs = append(errs, supported(*d, spec.Child("trafficDistribution"),
			corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferSameNode)...)
	}
	at := spec.Child("externalTrafficPolicy")
	if !externallyAccessible(s) {
		if s.Spec.ExternalTrafficPolicy != "" {
			errs = append(errs, field.Invalid(at, s.Spec.ExternalTrafficPolicy, "may only be set for externally-accessible services"))
		}
	} else {
		errs = append(errs, oneOf(s.Spec.ExternalTrafficPolicy, at, corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)...)
	}
	health := spec.Child("healthCheckNodePort")
	if !needsHealthCheckPort(s) {
		if s.Spec.HealthCheckNodePort != 0 {
			errs = append(errs, field.Invalid(health, s.Spec.HealthCheckNodePort, "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"))
		}
	} else if s.Spec.HealthCheckNodePort != 0 {
		errs = append(errs, invalidFor(health, s.Spec.HealthCheckNodePort, utilvalidation.IsValidPortNum(int(s.Spec.HealthCheckNodePort)))...)
	}
	internal := spec.Child("internalTrafficPolicy")
	switch {
	case s.Spec.InternalTrafficPolicy != nil:
		errs = append(errs, oneOf(*s.Spec.InternalTrafficPolicy, internal, corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)...)
	case s.Spec.Type == corev1.ServiceTypeClusterIP || mayHaveNodePorts(s):
		errs = append(errs, field.Required(internal, ""))
	}
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		if s.Spec.AllocateLoadBalancerNodePorts != nil {
			errs = append(errs, field.Forbidden(spec.Child("allocateLoadBalancerNodePorts"), "may only be used when `type` is 'LoadBalancer'"))
		}
		if s.Spec.LoadBalancerClass != nil {
			errs = append(errs, field.Forbidden(spec.Child("loadBalancerClass"), "may only be used when `type` is 'LoadBalancer'"))
		}
		if len(s.Spec.LoadBalancerSourceRanges) > 0 {
			errs = append(errs, field.Forbidden(spec.Child("LoadBalancerSourceRanges"), "may only be used when `type` is 'LoadBalancer'"))
		}
		return errs
	}
	if c := s.Spec.LoadBalancerClass; c != nil {
		errs = append(errs, invalidFor(spec.Child("loadBalancerClass"), *c, utilvalidation.IsQualifiedName(*c))...)
	}
	for i, cidr := range s.Spec.LoadBalancerSourceRanges {
		errs = append(errs, utilvalidation.IsValidCIDRForLegacyField(spec.Child("LoadBalancerSourceRanges").Index(i), strings.TrimSpace(cidr), true, nil)...)
	}
	return errs
}

func validateServiceUpdate(s, old *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	if hasClusterIP(s) && hasClusterIP(old) {
		errs = append(errs, validateKeptIPs(s, old)...)
		errs = append(errs, validateKeptFamilies(s, old)...)
	}
	if old.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.Type == corev1.ServiceTypeLoadBalancer {
		errs = append(errs, validation.ValidateImmutableField(s.Spec.LoadBalancerClass, old.Spec.LoadBalancerClass, field.NewPath("spec", "loadBalancerClass"))...)
	}
	return append(errs, validateService(s)...)
}

func headless(s *corev1.Service) bool {
	return len(s.Spec.ClusterIPs) == 1 && s.Spec.ClusterIPs[0] == corev1.ClusterIPNone
}

// validateKeptIPs holds that an address is for life, as long as there is one. A second one may come,
// and go when the Service is told to have one.
func validateKeptIPs(s, old *corev1.Service) field.ErrorList {
	if headless(s) && headless(old) {
		return nil
	}
	var errs field.ErrorList
	at := field.NewPath("spec", "clusterIPs")
	ips, before := s.Spec.ClusterIPs, old.Spec.ClusterIPs
	if len(ips) == len(before) {
		for i := range ips {
			if ips[i] != before[i] {
				errs = append(errs, field.Invalid(at.Index(i), ips, "may not change once set"))
			}
		}
		return errs
	}
	if len(ips) == 0 {
		return field.ErrorList{field.Invalid(at.Index(0), ips, "primary clusterIP can not be unset")}
	}
	if len(before) > 0 && ips[0] != before[0] {
		errs = append(errs, field.Invalid(at.Index(0), ips, "may not change once set"))
	}
	if len(ips) == 1 && len(before) > 1 && !singleStack(s) {
		errs = append(errs, field.Invalid(field.NewPath("spec", "ipFamilyPolicy"), s.Spec.IPFamilyPolicy, "must be set to 'SingleStack' when releasing the secondary clusterIP"))
	}
	return errs
}

// validateKeptFamilies is validateKeptIPs for families. Headless Services may change them.
func validateKeptFamilies(s, old *corev1.Service) field.ErrorList {
	if headless(s) || headless(old) {
		return nil
	}
	var errs field.ErrorList
	at := field.NewPath("spec", "ipFamilies").Index(0)
	families, before := s.Spec.IPFamilies, old.Spec.IPFamilies
	if len(families) == len(before) {
		for i := range families {
			if families[i] != before[i] {
				errs = append(errs, field.Invalid(at, families, "may not change once set"))
			}
		}
		return errs
	}
	if len(families) < len(before) && len(s.Spec.ClusterIPs) == 0 {
		errs = append(errs, field.Invalid(at, families, "primary ipFamily can not be unset"))
	}
	if len(families) > 0 && len(before) > 0 && families[0] != before[0] {
		errs = append(errs, field.Invalid(at, s.Spec.ClusterIPs, "may not change once set"))
	}
	if len(families) == 1 && len(before) > 1 && !singleStack(s) {
		errs = append(errs, field.Invalid(field.NewPath("spec", "ipFamilyPolicy"), s.Spec.IPFamilyPolicy, "must be set to 'SingleStack' when releasing the secondary ipFamily"))
	}
	return errs
}

func singleStack(s *corev1.Service) bool {
	return s.Spec.IPFamilyPolicy != nil && *s.Spec.IPFamilyPolicy == corev1.IPFamilyPolicySingleStack
}

func validateServiceStatus(s, _ *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("status", "loadBalancer", "ingress")
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer && len(s.Status.LoadBalancer.Ingress) != 0 {
		return field.ErrorList{field.Forbidden(path, "may only be used when `spec.type` is \"LoadBalancer\"")}
	}
	for i, in := range s.Status.LoadBalancer.Ingress {
		if in.IP != "" {
			errs = append(errs, utilvalidation.IsValidIPForLegacyField(path.Index(i).Child("ip"), in.IP, true, nil)...)
		}
		if in.Hostname != "" {
			errs = append(errs, invalidFor(path.Index(i).Child("hostname"), in.Hostname, utilvalidation.IsDNS1123Subdomain(in.Hostname))...)
		}
	}
	return errs
}
