package scheduler

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
)

// What a container without requests counts for in scoring, as upstream.
const (
	defaultMilliCPU = 100
	defaultMemory   = 200 << 20
)

// resources are amounts of what pods request: cpu in thousandths, all else in units.
type resources map[corev1.ResourceName]int64

func amounts(list corev1.ResourceList) resources {
	r := make(resources, len(list))
	for name, quantity := range list {
		if name == corev1.ResourceCPU {
			r[name] = quantity.MilliValue()
		} else {
			r[name] = quantity.Value()
		}
	}
	return r
}

func (r resources) plus(other resources, sign int64) resources {
	sum := make(resources, len(r)+len(other))
	for name, amount := range r {
		sum[name] = amount
	}
	for name, amount := range other {
		sum[name] += sign * amount
	}
	return sum
}

// hostPort is a port a pod takes on its node. IP is 0.0.0.0 for all addresses.
type hostPort struct {
	protocol corev1.Protocol
	ip       string
	port     int32
}

func (p hostPort) conflicts(other hostPort) bool {
	return p.port == other.port && p.protocol == other.protocol &&
		(p.ip == other.ip || p.ip == anyIP || other.ip == anyIP)
}

const anyIP = "0.0.0.0"

// placed is a pod on a node, with what planning asks about it worked out once.
type placed struct {
	pod      *corev1.Pod
	requests resources
	scoring  resources // cpu and memory, with defaults for containers that request none
	ports    []hostPort
}

func place(pod *corev1.Pod) placed {
	p := placed{
		pod:      pod,
		requests: amounts(resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{UseStatusResources: true})),
		scoring: amounts(resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{
			UseStatusResources: true, NonMissingContainerRequests: scoringDefaults(),
		})),
	}
	for _, c := range pod.Spec.Containers {
		p.ports = appendPorts(p.ports, c)
	}
	for _, c := range pod.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			p.ports = appendPorts(p.ports, c)
		}
	}
	return p
}

func appendPorts(ports []hostPort, c corev1.Container) []hostPort {
	for _, port := range c.Ports {
		if port.HostPort <= 0 {
			continue
		}
		p := hostPort{protocol: port.Protocol, ip: port.HostIP, port: port.HostPort}
		if p.protocol == "" {
			p.protocol = corev1.ProtocolTCP
		}
		if p.ip == "" {
			p.ip = anyIP
		}
		ports = append(ports, p)
	}
	return ports
}

// nodeInfo is a node with the pods on it. It is never changed: with and without
// return new ones.
type nodeInfo struct {
	node        *corev1.Node // nil while only pods of the node are known
	allocatable resources
	pods        []placed
	picky       []placed // those of pods with inter-pod affinity or anti-affinity
	requested   resources
	scoring     resources
}

func (n *nodeInfo) withNode(node *corev1.Node) *nodeInfo {
	clone := *n
	clone.node = node
	clone.allocatable = nil
	if node != nil {
		clone.allocatable = amounts(node.Status.Allocatable)
	}
	return &clone
}

func (n *nodeInfo) with(p placed) *nodeInfo {
	clone := *n
	clone.pods = append(slices.Clip(n.pods), p)
	if hasPodAffinity(p.pod) {
		clone.picky = append(slices.Clip(n.picky), p)
	}
	clone.requested = n.requested.plus(p.requests, 1)
	clone.scoring = n.scoring.plus(p.scoring, 1)
	return &clone
}

func (n *nodeInfo) without(pod *corev1.Pod) *nodeInfo {
	at := slices.IndexFunc(n.pods, func(p placed) bool { return p.pod.UID == pod.UID })
	if at < 0 {
		return n
	}
	gone := n.pods[at]
	other := func(p placed) bool { return p.pod.UID == pod.UID }
	clone := *n
	clone.pods = slices.DeleteFunc(slices.Clone(n.pods), other)
	clone.picky = slices.DeleteFunc(slices.Clone(n.picky), other)
	clone.requested = n.requested.plus(gone.requests, -1)
	clone.scoring = n.scoring.plus(gone.scoring, -1)
	return &clone
}

func hasPodAffinity(pod *corev1.Pod) bool {
	a := pod.Spec.Affinity
	return a != nil && (a.PodAffinity != nil || a.PodAntiAffinity != nil)
}
