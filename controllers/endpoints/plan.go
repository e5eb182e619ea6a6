package endpoints

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kontiki/controllers/podview"
)

const (
	// maxAddresses is how many addresses one object holds; more are cut off and the
	// object says so.
	maxAddresses = 1000
	truncated    = "truncated"

	managedByLabel = "endpoints.kubernetes.io/managed-by"
	managedBy      = "endpoint-controller"
)

// plan answers the Endpoints to write, nil if those there are (nil if there are
// none) are as they should be.
func plan(service *corev1.Service, pods []*corev1.Pod, have *corev1.Endpoints) *corev1.Endpoints {
	subsets, cut := shorten(pack(service, pods))
	next := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: service.Namespace, Name: service.Name}}
	if have != nil {
		next = have.DeepCopy()
	}
	next.Subsets = subsets
	next.Labels = maps.Clone(service.Labels)
	if next.Labels == nil {
		next.Labels = map[string]string{}
	}
	delete(next.Labels, corev1.IsHeadlessService)
	if service.Spec.ClusterIP == corev1.ClusterIPNone {
		next.Labels[corev1.IsHeadlessService] = ""
	}
	next.Labels[managedByLabel] = managedBy
	if cut {
		if next.Annotations == nil {
			next.Annotations = map[string]string{}
		}
		next.Annotations[corev1.EndpointsOverCapacity] = truncated
	} else {
		delete(next.Annotations, corev1.EndpointsOverCapacity)
	}
	if have != nil && equality.Semantic.DeepEqual(have, next) {
		return nil
	}
	return next
}

// pack puts the pods' addresses into as few subsets as there are sets of ports,
// in one order.
func pack(service *corev1.Service, pods []*corev1.Pod) []corev1.EndpointSubset {
	byPorts := map[string]*corev1.EndpointSubset{}
	six := len(service.Spec.IPFamilies) > 0 && service.Spec.IPFamilies[0] == corev1.IPv6Protocol // one family only
	for _, pod := range pods {
		ip := podview.Address(pod, six)
		if ip == "" || podview.Finished(pod) {
			continue
		}
		if pod.DeletionTimestamp != nil && !service.Spec.PublishNotReadyAddresses {
			continue
		}
		ports := portsOf(service, pod)
		key := keyOf(ports)
		subset := byPorts[key]
		if subset == nil {
			if len(service.Spec.Ports) > 0 && len(ports) == 0 {
				continue // the pod has none of the named ports
			}
			subset = &corev1.EndpointSubset{Ports: ports}
			byPorts[key] = subset
		}
		a := corev1.EndpointAddress{IP: ip, NodeName: nonEmpty(pod.Spec.NodeName), TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID}}
		if pod.Spec.Hostname != "" && pod.Spec.Subdomain == service.Name {
			a.Hostname = pod.Spec.Hostname
		}
		if service.Spec.PublishNotReadyAddresses || podview.Ready(pod) {
			subset.Addresses = append(subset.Addresses, a)
		} else {
			subset.NotReadyAddresses = append(subset.NotReadyAddresses, a)
		}
	}
	var subsets []corev1.EndpointSubset
	for _, key := range slices.Sorted(maps.Keys(byPorts)) {
		s := byPorts[key]
		for _, list := range [][]corev1.EndpointAddress{s.Addresses, s.NotReadyAddresses} {
			slices.SortFunc(list, func(a, b corev1.EndpointAddress) int {
				return cmp.Or(cmp.Compare(a.IP, b.IP), cmp.Compare(a.TargetRef.UID, b.TargetRef.UID))
			})
		}
		subsets = append(subsets, *s)
	}
	return subsets
}

func nonEmpty(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func portsOf(service *corev1.Service, pod *corev1.Pod) []corev1.EndpointPort {
	var ports []corev1.EndpointPort
	for _, p := range service.Spec.Ports {
		if number, ok := podview.TargetPort(p, pod); ok {
			ports = append(ports, corev1.EndpointPort{Name: p.Name, Port: number, Protocol: cmp.Or(p.Protocol, corev1.ProtocolTCP), AppProtocol: p.AppProtocol})
		}
	}
	slices.SortFunc(ports, func(a, b corev1.EndpointPort) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
	})
	return ports
}

func keyOf(ports []corev1.EndpointPort) string {
	raw, err := json.Marshal(ports)
	if err != nil {
		panic("endpoint ports cannot be marshalled: " + err.Error())
	}
	return string(raw)
}

// shorten cuts addresses off beyond what one object may hold, those that are not
// ready first.
func shorten(subsets []corev1.EndpointSubset) (short []corev1.EndpointSubset, cut bool) {
	ready, other := 0, 0
	for _, s := range subsets {
		ready += len(s.Addresses)
		other += len(s.NotReadyAddresses)
	}
	if ready+other <= maxAddresses {
		return subsets, false
	}
	left := maxAddresses
	take := func(list []corev1.EndpointAddress) []corev1.EndpointAddress {
		n := min(left, len(list))
		left -= n
		return list[:n:n]
	}
	for i := range subsets {
		subsets[i].Addresses = take(subsets[i].Addresses)
	}
	for i := range subsets {
		subsets[i].NotReadyAddresses = take(subsets[i].NotReadyAddresses)
	}
	return slices.DeleteFunc(subsets, func(s corev1.EndpointSubset) bool { return len(s.Addresses)+len(s.NotReadyAddresses) == 0 }), true
}
