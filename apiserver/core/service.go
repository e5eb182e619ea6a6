package core

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/sets"

	"kontiki/apiserver/allocate"
	"kontiki/apiserver/kind"
)

func services(cfg Config) kind.Definition {
	return &kind.Kind[*corev1.Service]{
		Resource: "services", Singular: "service", ShortNames: []string{"svc"}, Categories: []string{"all"},
		New:            func() *corev1.Service { return &corev1.Service{} },
		NewList:        func() runtime.Object { return &corev1.ServiceList{} },
		Name:           validation.NameIsDNSLabel,
		ReturnDeleted:  true,
		Default:        defaultService,
		Prepare:        prepareService,
		Validate:       validateService,
		ValidateUpdate: validateServiceUpdate,
		Warn:           warnService,
		Status:         &kind.Status[*corev1.Service]{Validate: validateServiceStatus, Warn: warnServiceStatus},
		Fields: func(s *corev1.Service) fields.Set {
			return fields.Set{"spec.clusterIP": s.Spec.ClusterIP, "spec.type": string(s.Spec.Type)}
		},
		Columns: []metav1.TableColumnDefinition{
			kind.NameColumn,
			kind.Column("Type", corev1.ServiceSpec{}.SwaggerDoc()["type"]),
			kind.Column("Cluster-IP", corev1.ServiceSpec{}.SwaggerDoc()["clusterIP"]),
			kind.Column("External-IP", corev1.ServiceSpec{}.SwaggerDoc()["externalIPs"]),
			kind.Column("Port(s)", corev1.ServiceSpec{}.SwaggerDoc()["ports"]),
			kind.AgeColumn,
			kind.Wide("Selector", corev1.ServiceSpec{}.SwaggerDoc()["selector"]),
		},
		Cells:  serviceCells,
		Extend: func(in kind.Storages) (kind.Storages, error) { return extendServices(in, cfg) },
	}
}

func defaultService(s *corev1.Service) {
	spec := &s.Spec
	orDefault(&spec.SessionAffinity, corev1.ServiceAffinityNone)
	switch spec.SessionAffinity {
	case corev1.ServiceAffinityNone:
		spec.SessionAffinityConfig = nil
	case corev1.ServiceAffinityClientIP:
		if c := spec.SessionAffinityConfig; c == nil || c.ClientIP == nil || c.ClientIP.TimeoutSeconds == nil {
			spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{
				ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr(corev1.DefaultClientIPServiceAffinitySeconds)},
			}
		}
	}
	orDefault(&spec.Type, corev1.ServiceTypeClusterIP)
	for i := range spec.Ports {
		p := &spec.Ports[i]
		orDefault(&p.Protocol, corev1.ProtocolTCP)
		if p.TargetPort == intstr.FromInt32(0) || p.TargetPort == intstr.FromString("") {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
	if externallyAccessible(s) {
		orDefault(&spec.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster)
	}
	if spec.Type != corev1.ServiceTypeExternalName {
		orPtr(&spec.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster)
	}
	if spec.Type == corev1.ServiceTypeLoadBalancer {
		orPtr(&spec.AllocateLoadBalancerNodePorts, true)
	}
}

func externallyAccessible(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer || s.Spec.Type == corev1.ServiceTypeNodePort ||
		(s.Spec.Type == corev1.ServiceTypeClusterIP && len(s.Spec.ExternalIPs) > 0)
}

func hasClusterIP(s *corev1.Service) bool { return s.Spec.Type != corev1.ServiceTypeExternalName }

func hasNodePorts(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeNodePort || (s.Spec.Type == corev1.ServiceTypeLoadBalancer &&
		(s.Spec.AllocateLoadBalancerNodePorts == nil || *s.Spec.AllocateLoadBalancerNodePorts))
}

func mayHaveNodePorts(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeLoadBalancer
}

func needsHealthCheckPort(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

func prepareService(_ context.Context, s, old *corev1.Service) {
	if old != nil {
		keepAllocated(s, old)
		dropTypeDependent(s, old)
	}
	normalizeClusterIPs(s, old)
}

// keepAllocated lets a user who does not name what the API has given keep it.
func keepAllocated(s, old *corev1.Service) {
	if hasClusterIP(old) && hasClusterIP(s) {
		if s.Spec.ClusterIP == "" {
			s.Spec.ClusterIP = old.Spec.ClusterIP
		}
		if len(s.Spec.ClusterIPs) == 0 && s.Spec.ClusterIP == old.Spec.ClusterIP {
			s.Spec.ClusterIPs = slices.Clone(old.Spec.ClusterIPs)
		}
	}
	if hasNodePorts(old) && hasNodePorts(s) {
		keepNodePorts(s, old)
	}
	if needsHealthCheckPort(old) && needsHealthCheckPort(s) && s.Spec.HealthCheckNodePort == 0 {
		s.Spec.HealthCheckNodePort = old.Spec.HealthCheckNodePort
	}
}

func keepNodePorts(s, old *corev1.Service) {
	type key struct {
		corev1.Protocol
		int32
	}
	had, used := map[key]int32{}, map[key]bool{}
	for _, p := range old.Spec.Ports {
		had[key{p.Protocol, p.Port}] = p.NodePort
	}
	for _, p := range s.Spec.Ports {
		if p.NodePort != 0 {
			used[key{p.Protocol, p.NodePort}] = true
		}
	}
	for i := range s.Spec.Ports {
		p := &s.Spec.Ports[i]
		before := had[key{p.Protocol, p.Port}]
		if p.NodePort == 0 && before != 0 && !used[key{p.Protocol, before}] {
			p.NodePort = before
			used[key{p.Protocol, before}] = true
		}
	}
}

// dropTypeDependent clears what an earlier type has left, when the user has
// changed the type and not those fields.
func dropTypeDependent(s, old *corev1.Service) {
	if hasClusterIP(old) && !hasClusterIP(s) && s.Spec.ClusterIP == old.Spec.ClusterIP && slices.Equal(s.Spec.ClusterIPs, old.Spec.ClusterIPs) {
		s.Spec.ClusterIP, s.Spec.ClusterIPs = "", nil
		s.Spec.IPFamilies, s.Spec.IPFamilyPolicy = nil, nil
	}
	if hasNodePorts(old) && !hasNodePorts(s) && sameNodePorts(s, old) {
		for i := range s.Spec.Ports {
			s.Spec.Ports[i].NodePort = 0
		}
	}
	if needsHealthCheckPort(old) && !needsHealthCheckPort(s) && s.Spec.HealthCheckNodePort == old.Spec.HealthCheckNodePort {
		s.Spec.HealthCheckNodePort = 0
	}
	lb := corev1.ServiceTypeLoadBalancer
	if old.Spec.Type == lb && s.Spec.Type != lb {
		s.Spec.AllocateLoadBalancerNodePorts = nil
		s.Spec.LoadBalancerClass = nil
		s.Status.LoadBalancer = corev1.LoadBalancerStatus{}
	}
	if externallyAccessible(old) && !externallyAccessible(s) && s.Spec.ExternalTrafficPolicy == old.Spec.ExternalTrafficPolicy {
		s.Spec.ExternalTrafficPolicy = ""
	}
	if old.Spec.Type != corev1.ServiceTypeExternalName && s.Spec.Type == corev1.ServiceTypeExternalName {
		s.Spec.InternalTrafficPolicy = nil
	}
	if old.Spec.Type == corev1.ServiceTypeExternalName && s.Spec.Type != corev1.ServiceTypeExternalName && s.Spec.ExternalName == old.Spec.ExternalName {
		s.Spec.ExternalName = ""
	}
}

func sameNodePorts(s, old *corev1.Service) bool {
	had := sets.New[int32]()
	for _, p := range old.Spec.Ports {
		had.Insert(p.NodePort)
	}
	for _, p := range s.Spec.Ports {
		if p.NodePort != 0 && !had.Has(p.NodePort) {
			return false
		}
	}
	return true
}

// normalizeClusterIPs keeps clusterIP the first of clusterIPs for clients that
// know only the one.
func normalizeClusterIPs(s, old *corev1.Service) {
	if old == nil {
		if s.Spec.ClusterIP != "" && len(s.Spec.ClusterIPs) == 0 {
			s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
		}
		return
	}
	if s.Spec.ClusterIP == old.Spec.ClusterIP {
		return
	}
	// Only the singular was changed: the plural follows.
	if slices.Equal(s.Spec.ClusterIPs, old.Spec.ClusterIPs) {
		switch {
		case s.Spec.ClusterIP == "":
			s.Spec.ClusterIPs = nil
		default:
			s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
		}
	}
}

// ServiceHoldings are the addresses and ports that a Service holds.
func ServiceHoldings(obj runtime.Object) []string {
	s, ok := obj.(*corev1.Service)
	if !ok {
		return nil
	}
	var keys []string
	if hasClusterIP(s) && s.Spec.ClusterIP != corev1.ClusterIPNone {
		for _, text := range s.Spec.ClusterIPs {
			if ip, err := netip.ParseAddr(text); err == nil {
				keys = append(keys, allocate.IPKey(ip))
			}
		}
	}
	if !mayHaveNodePorts(s) {
		return keys
	}
	seen := sets.New[int32]()
	for _, port := range append(nodePortsOf(s), s.Spec.HealthCheckNodePort) {
		if port != 0 && !seen.Has(port) {
			seen.Insert(port)
			keys = append(keys, allocate.PortKey(port))
		}
	}
	return keys
}

func nodePortsOf(s *corev1.Service) []int32 {
	var ports []int32
	for _, p := range s.Spec.Ports {
		if p.NodePort != 0 {
			ports = append(ports, p.NodePort)
		}
	}
	return ports
}

func serviceCells(s *corev1.Service) []any {
	internal := "<none>"
	if len(s.Spec.ClusterIPs) > 0 {
		internal = s.Spec.ClusterIPs[0]
	}
	selector := "<none>"
	if len(s.Spec.Selector) > 0 {
		selector = labels.FormatLabels(s.Spec.Selector)
	}
	return []any{s.Name, string(s.Spec.Type), internal, externalIPs(s), orNone(formatPorts(s.Spec.Ports)), kind.Age(s.CreationTimestamp), selector}
}

func externalIPs(s *corev1.Service) string {
	switch s.Spec.Type {
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort:
		return orNone(strings.Join(s.Spec.ExternalIPs, ","))
	case corev1.ServiceTypeLoadBalancer:
		var ingress []string
		for _, in := range s.Status.LoadBalancer.Ingress {
			if in.IP != "" {
				ingress = append(ingress, in.IP)
			} else if in.Hostname != "" {
				ingress = append(ingress, in.Hostname)
			}
		}
		if len(s.Spec.ExternalIPs) > 0 {
			return strings.Join(append(ingress, s.Spec.ExternalIPs...), ",")
		}
		if len(ingress) > 0 {
			return strings.Join(ingress, ",")
		}
		return "<pending>"
	case corev1.ServiceTypeExternalName:
		return s.Spec.ExternalName
	}
	return "<unknown>"
}

func formatPorts(ports []corev1.ServicePort) string {
	out := make([]string, len(ports))
	for i, p := range ports {
		out[i] = fmt.Sprintf("%d/%s", p.Port, p.Protocol)
		if p.NodePort > 0 {
			out[i] = fmt.Sprintf("%d:%d/%s", p.Port, p.NodePort, p.Protocol)
		}
	}
	return strings.Join(out, ",")
}
