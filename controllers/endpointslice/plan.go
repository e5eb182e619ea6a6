package endpointslice

import (
	"cmp"
	"encoding/json"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"kontiki/controllers/podview"
	"kontiki/controllers/slicecontrol"
)

// maxEndpoints is how many endpoints one slice holds, upstream's default.
const maxEndpoints = 100

const managedBy = "endpointslice-controller.k8s.io"

var serviceKind = corev1.SchemeGroupVersion.WithKind("Service")

// actions is what to write so that the slices say where the Service's pods are.
type actions struct{ slicecontrol.Actions }

// group is endpoints that can share slices: one family, one set of ports.
type group struct {
	family    discoveryv1.AddressType
	ports     []discoveryv1.EndpointPort
	endpoints map[string]discoveryv1.Endpoint // by identity
}

// plan compares what there should be with the slices there are, and changes as few
// of them as it can: each is a message to every node. zone answers a node's zone.
func plan(service *corev1.Service, pods []*corev1.Pod, existing []*discoveryv1.EndpointSlice, zone func(node string) string) actions {
	wanted := groups(service, pods, zone)
	var a actions
	rest := map[string][]*discoveryv1.EndpointSlice{}
	for _, slice := range existing {
		key := groupKey(slice.AddressType, slice.Ports)
		if _, ok := wanted[key]; ok && slice.DeletionTimestamp == nil {
			rest[key] = append(rest[key], slice)
		} else if slice.DeletionTimestamp == nil {
			a.Remove = append(a.Remove, slice)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(wanted)) {
		a.fill(service, wanted[key], rest[key])
	}
	return a
}

func groups(service *corev1.Service, pods []*corev1.Pod, zone func(string) string) map[string]*group {
	wanted := map[string]*group{}
	for _, family := range families(service) {
		some := false
		for _, pod := range pods {
			addresses := addressesOf(pod, family)
			if podview.Finished(pod) || len(addresses) == 0 {
				continue
			}
			ports := portsOf(service, pod)
			key := groupKey(family, ports)
			if wanted[key] == nil {
				wanted[key] = &group{family, ports, map[string]discoveryv1.Endpoint{}}
			}
			wanted[key].endpoints[string(pod.UID)] = endpoint(service, pod, addresses, zone)
			some = true
		}
		if !some { // one empty slice says that there is nothing
			wanted[groupKey(family, nil)] = &group{family: family}
		}
	}
	return wanted
}

func families(service *corev1.Service) []discoveryv1.AddressType {
	var types []discoveryv1.AddressType
	for _, family := range service.Spec.IPFamilies {
		if family == corev1.IPv6Protocol {
			types = append(types, discoveryv1.AddressTypeIPv6)
		} else {
			types = append(types, discoveryv1.AddressTypeIPv4)
		}
	}
	if len(types) > 0 {
		return types
	}
	if ip, err := netip.ParseAddr(service.Spec.ClusterIP); err == nil && ip.Is6() {
		return []discoveryv1.AddressType{discoveryv1.AddressTypeIPv6}
	}
	return []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4}
}

func addressesOf(pod *corev1.Pod, family discoveryv1.AddressType) []string {
	if ip := podview.Address(pod, family == discoveryv1.AddressTypeIPv6); ip != "" {
		return []string{ip}
	}
	return nil
}

// portsOf resolves the Service's ports for a pod; a named port the pod lacks is
// left out.
func portsOf(service *corev1.Service, pod *corev1.Pod) []discoveryv1.EndpointPort {
	var ports []discoveryv1.EndpointPort
	for _, p := range service.Spec.Ports {
		number, ok := podview.TargetPort(p, pod)
		if !ok {
			continue
		}
		protocol := p.Protocol
		if protocol == "" {
			protocol = corev1.ProtocolTCP
		}
		ports = append(ports, discoveryv1.EndpointPort{Name: ptr.To(p.Name), Port: &number, Protocol: &protocol, AppProtocol: p.AppProtocol})
	}
	return ports
}

func endpoint(service *corev1.Service, pod *corev1.Pod, addresses []string, zone func(string) string) discoveryv1.Endpoint {
	serving, terminating := podview.Ready(pod), pod.DeletionTimestamp != nil
	e := discoveryv1.Endpoint{
		Addresses: addresses,
		Conditions: discoveryv1.EndpointConditions{
			Ready:       ptr.To(service.Spec.PublishNotReadyAddresses || serving && !terminating),
			Serving:     ptr.To(serving),
			Terminating: ptr.To(terminating),
		},
		TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
	}
	if pod.Spec.NodeName != "" {
		e.NodeName = ptr.To(pod.Spec.NodeName)
		if z := zone(pod.Spec.NodeName); z != "" {
			e.Zone = &z
		}
	}
	if *e.Conditions.Ready {
		e.Hints = hintsOf(service, e)
	}
	if pod.Spec.Hostname != "" && pod.Spec.Subdomain == service.Name && pod.Namespace == service.Namespace {
		e.Hostname = ptr.To(pod.Spec.Hostname)
	}
	return e
}

// hintsOf says for whom an endpoint is, where the Service wants its clients to stay close:
// for its zone, and its node if that is what is wanted.
func hintsOf(service *corev1.Service, e discoveryv1.Endpoint) *discoveryv1.EndpointHints {
	var h discoveryv1.EndpointHints
	switch ptr.Deref(service.Spec.TrafficDistribution, "") {
	case corev1.ServiceTrafficDistributionPreferSameNode:
		if e.NodeName != nil {
			h.ForNodes = []discoveryv1.ForNode{{Name: *e.NodeName}}
		}
	case corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone:
	default:
		return nil
	}
	if e.Zone != nil {
		h.ForZones = []discoveryv1.ForZone{{Name: *e.Zone}}
	}
	if h.ForNodes == nil && h.ForZones == nil {
		return nil
	}
	return &h
}

func groupKey(family discoveryv1.AddressType, ports []discoveryv1.EndpointPort) string {
	sorted := slices.SortedFunc(slices.Values(ports), func(a, b discoveryv1.EndpointPort) int {
		return cmp.Compare(ptr.Deref(a.Name, ""), ptr.Deref(b.Name, ""))
	})
	if len(sorted) == 0 {
		sorted = nil
	}
	raw, err := json.Marshal(sorted)
	if err != nil {
		panic("endpoint ports cannot be marshalled: " + err.Error())
	}
	return string(family) + string(raw)
}

// fill distributes a group over the slices it has: first every slice keeps what it
// rightly has, then those changed anyway take new endpoints, then those with room,
// then new slices.
func (a *actions) fill(service *corev1.Service, g *group, have []*discoveryv1.EndpointSlice) {
	slices.SortFunc(have, func(x, y *discoveryv1.EndpointSlice) int { return cmp.Compare(x.Name, y.Name) })
	left := maps.Clone(g.endpoints)
	next := make([]*discoveryv1.EndpointSlice, len(have))
	for i, slice := range have {
		next[i] = slice.DeepCopy()
		next[i].Labels = labelsOf(service, slice.Labels)
		next[i].OwnerReferences = ownersOf(service, slice.OwnerReferences)
		next[i].Endpoints = keep(slice.Endpoints, left)
	}
	missing := slices.Sorted(maps.Keys(left))
	put := func(slice *discoveryv1.EndpointSlice) {
		n := min(len(missing), maxEndpoints-len(slice.Endpoints))
		for _, key := range missing[:max(n, 0)] {
			slice.Endpoints = append(slice.Endpoints, left[key])
		}
		missing = missing[max(n, 0):]
	}
	for _, changedOnly := range []bool{true, false} {
		for i := range next {
			if !changedOnly || !equality.Semantic.DeepEqual(have[i], next[i]) {
				put(next[i])
			}
		}
	}
	for len(missing) > 0 || len(g.endpoints) == 0 && len(next) == 0 {
		fresh := newSlice(service, g)
		put(fresh)
		a.Create = append(a.Create, fresh)
		if len(missing) == 0 {
			break
		}
	}
	a.settle(g, have, next)
}

// settle sorts the slices of a group into those to write and those to remove. The
// last one may be empty only when the group is.
func (a *actions) settle(g *group, have, next []*discoveryv1.EndpointSlice) {
	placeholder := len(g.endpoints) == 0
	for i, slice := range next {
		switch {
		case len(slice.Endpoints) == 0 && !placeholder:
			a.Remove = append(a.Remove, have[i])
		case !equality.Semantic.DeepEqual(have[i], slice):
			a.Update = append(a.Update, slice)
		}
		if len(slice.Endpoints) == 0 {
			placeholder = false
		}
	}
}

func keep(endpoints []discoveryv1.Endpoint, left map[string]discoveryv1.Endpoint) []discoveryv1.Endpoint {
	kept := make([]discoveryv1.Endpoint, 0, len(endpoints))
	for _, e := range endpoints {
		if e.TargetRef == nil {
			continue
		}
		if wanted, ok := left[string(e.TargetRef.UID)]; ok {
			delete(left, string(e.TargetRef.UID))
			kept = append(kept, wanted)
		}
	}
	return kept
}

func newSlice(service *corev1.Service, g *group) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName:    service.Name + "-",
			Namespace:       service.Namespace,
			Labels:          labelsOf(service, nil),
			OwnerReferences: ownersOf(service, nil),
		},
		AddressType: g.family,
		Ports:       g.ports,
		Endpoints:   []discoveryv1.Endpoint{},
	}
}

// labelsOf are the Service's labels and those that mark the slice; whatever else
// was on the slice goes.
func labelsOf(service *corev1.Service, old map[string]string) map[string]string {
	wanted := map[string]string{}
	for key, value := range service.Labels {
		wanted[key] = value
	}
	delete(wanted, corev1.IsHeadlessService)
	if service.Spec.ClusterIP == corev1.ClusterIPNone {
		wanted[corev1.IsHeadlessService] = ""
	}
	wanted[discoveryv1.LabelServiceName] = service.Name
	wanted[discoveryv1.LabelManagedBy] = managedBy
	if maps.Equal(old, wanted) {
		return old
	}
	return wanted
}

func ownersOf(service *corev1.Service, old []metav1.OwnerReference) []metav1.OwnerReference {
	owner := *metav1.NewControllerRef(service, serviceKind)
	if slices.ContainsFunc(old, func(o metav1.OwnerReference) bool { return o.UID == owner.UID }) {
		return old
	}
	return append(slices.Clone(old), owner)
}
