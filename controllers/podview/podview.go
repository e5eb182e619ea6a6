// Package podview answers the questions every controller has about pods: is it
// active, ready, available, and who owns it. It also names the indexes the shared
// pod informer carries.
//
// All functions are pure but for those that are given a lister. Only controllers import
// this package.
package podview

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// Names of the pod informer's indexes.
const (
	ByNode       = "node"       // spec.nodeName, absent while unassigned
	ByController = "controller" // UID of the controlling owner
	Orphans      = "orphans"    // namespace, for pods without a controlling owner
)

// Indexers are the indexes of the shared pod informer.
func Indexers() cache.Indexers {
	return cache.Indexers{
		ByNode: func(obj any) ([]string, error) {
			if pod, ok := obj.(*corev1.Pod); ok && pod.Spec.NodeName != "" {
				return []string{pod.Spec.NodeName}, nil
			}
			return nil, nil
		},
		ByController: func(obj any) ([]string, error) {
			if pod, ok := obj.(*corev1.Pod); ok {
				if owner := metav1.GetControllerOfNoCopy(pod); owner != nil {
					return []string{string(owner.UID)}, nil
				}
			}
			return nil, nil
		},
		Orphans: func(obj any) ([]string, error) {
			if pod, ok := obj.(*corev1.Pod); ok && metav1.GetControllerOfNoCopy(pod) == nil {
				return []string{pod.Namespace}, nil
			}
			return nil, nil
		},
	}
}

// Indexed returns the pods under a value of an index.
func Indexed(indexer cache.Indexer, index, value string) ([]*corev1.Pod, error) {
	objs, err := indexer.ByIndex(index, value)
	if err != nil {
		return nil, err
	}
	pods := make([]*corev1.Pod, 0, len(objs))
	for _, obj := range objs {
		pods = append(pods, obj.(*corev1.Pod))
	}
	return pods, nil
}

// Owned returns the pods whose controlling owner has the UID.
func Owned(indexer cache.Indexer, owner types.UID) ([]*corev1.Pod, error) {
	return Indexed(indexer, ByController, string(owner))
}

// Finished says whether all containers have ended for good.
func Finished(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// Active says whether the pod counts as a replica: not finished, not on its way out.
func Active(pod *corev1.Pod) bool {
	return !Finished(pod) && pod.DeletionTimestamp == nil
}

// Condition returns the condition of a type, or nil.
func Condition(pod *corev1.Pod, kind corev1.PodConditionType) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == kind {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

// Ready says whether the pod's Ready condition is true.
func Ready(pod *corev1.Pod) bool {
	c := Condition(pod, corev1.PodReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

// Available says whether the pod has been ready for minReadySeconds; if it will
// be without a further event, after says when.
func Available(pod *corev1.Pod, minReadySeconds int32, now time.Time) (available bool, after time.Duration) {
	c := Condition(pod, corev1.PodReady)
	if c == nil || c.Status != corev1.ConditionTrue {
		return false, 0
	}
	if minReadySeconds == 0 {
		return true, 0
	}
	if c.LastTransitionTime.IsZero() {
		return false, 0
	}
	at := c.LastTransitionTime.Add(time.Duration(minReadySeconds) * time.Second)
	if !at.After(now) {
		return true, 0
	}
	return false, at.Sub(now)
}

// Lasting are the containers that run as long as the pod does: its own and its
// sidecars, which are init containers that are always restarted.
func Lasting(pod *corev1.Pod) []corev1.Container {
	all := slices.Clone(pod.Spec.Containers)
	for _, c := range pod.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			all = append(all, c)
		}
	}
	return all
}

// Address is the pod's address of a family, empty if it has none yet.
func Address(pod *corev1.Pod, six bool) string {
	ips := pod.Status.PodIPs
	if len(ips) == 0 && pod.Status.PodIP != "" {
		ips = []corev1.PodIP{{IP: pod.Status.PodIP}}
	}
	for _, ip := range ips {
		if addr, err := netip.ParseAddr(ip.IP); err == nil && addr.Is6() == six {
			return ip.IP
		}
	}
	return ""
}

// TargetPort is the number that a Service's port has on the pod; a name that none of
// its containers has is not found.
func TargetPort(p corev1.ServicePort, pod *corev1.Pod) (number int32, found bool) {
	if p.TargetPort.Type == intstr.Int {
		return cmp.Or(p.TargetPort.IntVal, p.Port), true
	}
	for _, c := range Lasting(pod) {
		for _, port := range c.Ports {
			if port.Name == p.TargetPort.StrVal && cmp.Or(port.Protocol, corev1.ProtocolTCP) == cmp.Or(p.Protocol, corev1.ProtocolTCP) {
				return port.ContainerPort, true
			}
		}
	}
	return 0, false
}

// SelectedBy returns those of the Services, all of the pod's namespace, that select it.
func SelectedBy(services []*corev1.Service, pod *corev1.Pod) (selecting []*corev1.Service) {
	for _, s := range services {
		if len(s.Spec.Selector) > 0 && labels.SelectorFromValidatedSet(s.Spec.Selector).Matches(labels.Set(pod.Labels)) {
			selecting = append(selecting, s)
		}
	}
	return selecting
}

// ZoneOf answers the zone of a node by its name; empty, if it has none or is not known.
func ZoneOf(nodes corelisters.NodeLister) func(node string) string {
	return func(node string) string {
		n, err := nodes.Get(node)
		if err != nil {
			return ""
		}
		return Zone(n)
	}
}

// Zone is the node's; empty if it has none, or if there is no node.
func Zone(node *corev1.Node) string {
	if node == nil {
		return ""
	}
	return node.Labels[corev1.LabelTopologyZone]
}
