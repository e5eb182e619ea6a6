package slicemirror

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/utils/ptr"

	"kontiki/controllers/slicecontrol"
)

const (
	managedBy = "endpointslicemirroring-controller.k8s.io"
	// maxEndpoints is how many addresses of one set of ports are mirrored.
	maxEndpoints = 1000
	// leaderAnnotation marks Endpoints that hold an election, not addresses.
	leaderAnnotation = "control-plane.alpha.kubernetes.io/leader"
)

var endpointsKind = corev1.SchemeGroupVersion.WithKind("Endpoints")

// mirrored says whether somebody's own Endpoints are what a Service goes by.
func mirrored(endpoints *corev1.Endpoints, service *corev1.Service) bool {
	if endpoints == nil || service == nil || service.Spec.Selector != nil || endpoints.DeletionTimestamp != nil {
		return false
	}
	_, election := endpoints.Annotations[leaderAnnotation]
	return !election && endpoints.Labels[discoveryv1.LabelSkipMirror] != "true"
}

// plan compares the slices there should be with those there are. A slice has the name
// of what it holds: it is never made twice. zone answers a
// node's zone. service is nil, as endpoints may be, where nothing is to be mirrored.
func plan(endpoints *corev1.Endpoints, service *corev1.Service, existing []*discoveryv1.EndpointSlice, zone func(string) string) slicecontrol.Actions {
	var a slicecontrol.Actions
	wanted := map[string]*discoveryv1.EndpointSlice{}
	if mirrored(endpoints, service) {
		wanted = mirror(endpoints, zone)
	}
	for _, have := range existing {
		next, ok := wanted[have.Name]
		delete(wanted, have.Name)
		switch {
		case have.DeletionTimestamp != nil:
		case !ok:
			a.Remove = append(a.Remove, have)
		default:
			update := have.DeepCopy()
			update.Labels, update.Annotations, update.OwnerReferences, update.Endpoints = next.Labels, next.Annotations, next.OwnerReferences, next.Endpoints
			if !equality.Semantic.DeepEqual(have, update) {
				a.Update = append(a.Update, update)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		a.Create = append(a.Create, wanted[name])
	}
	return a
}

// tooMany is how many addresses are not mirrored, since their subset has too many.
func tooMany(endpoints *corev1.Endpoints) (skipped int) {
	for _, subset := range endpoints.Subsets {
		skipped += max(0, len(subset.Addresses)+len(subset.NotReadyAddresses)-maxEndpoints)
	}
	return skipped
}

func mirror(endpoints *corev1.Endpoints, zone func(string) string) map[string]*discoveryv1.EndpointSlice {
	all := map[string]*discoveryv1.EndpointSlice{}
	for _, subset := range endpoints.Subsets {
		ports := portsOf(subset)
		add := func(address corev1.EndpointAddress, ready bool) {
			ip, err := netip.ParseAddr(address.IP)
			if err != nil {
				return // the API has refused such an address
			}
			family := discoveryv1.AddressTypeIPv4
			if ip.Is6() {
				family = discoveryv1.AddressTypeIPv6
			}
			name := nameOf(endpoints, family, ports)
			if all[name] == nil {
				all[name] = newSlice(endpoints, name, family, ports)
			}
			if slice := all[name]; len(slice.Endpoints) < maxEndpoints {
				slice.Endpoints = append(slice.Endpoints, endpointOf(address, ready, zone))
			}
		}
		for _, address := range subset.Addresses {
			add(address, true)
		}
		for _, address := range subset.NotReadyAddresses {
			add(address, false)
		}
	}
	return all
}

func portsOf(subset corev1.EndpointSubset) []discoveryv1.EndpointPort {
	var ports []discoveryv1.EndpointPort
	for _, p := range subset.Ports {
		ports = append(ports, discoveryv1.EndpointPort{Name: ptr.To(p.Name), Port: ptr.To(p.Port), Protocol: ptr.To(p.Protocol), AppProtocol: p.AppProtocol})
	}
	return ports
}

func nameOf(endpoints *corev1.Endpoints, family discoveryv1.AddressType, ports []discoveryv1.EndpointPort) string {
	raw, err := json.Marshal(ports)
	if err != nil {
		panic("endpoint ports cannot be marshalled: " + err.Error())
	}
	hash := fnv.New32a()
	hash.Write(append(raw, family...)) // never fails
	return endpoints.Name + "-" + rand.SafeEncodeString(fmt.Sprint(hash.Sum32()))
}

func newSlice(endpoints *corev1.Endpoints, name string, family discoveryv1.AddressType, ports []discoveryv1.EndpointPort) *discoveryv1.EndpointSlice {
	labels := maps.Clone(endpoints.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[discoveryv1.LabelServiceName], labels[discoveryv1.LabelManagedBy] = endpoints.Name, managedBy
	annotations := maps.Clone(endpoints.Annotations)
	delete(annotations, corev1.LastAppliedConfigAnnotation)
	delete(annotations, corev1.EndpointsLastChangeTriggerTime)
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: endpoints.Namespace, Name: name, Labels: labels, Annotations: annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(endpoints, endpointsKind)},
		},
		AddressType: family, Ports: ports,
	}
}

func endpointOf(address corev1.EndpointAddress, ready bool, zone func(string) string) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{
		Addresses: []string{address.IP}, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
		TargetRef: address.TargetRef, NodeName: address.NodeName,
	}
	if address.Hostname != "" {
		e.Hostname = &address.Hostname
	}
	if address.NodeName != nil {
		if z := zone(*address.NodeName); z != "" {
			e.Zone = &z
		}
	}
	return e
}
