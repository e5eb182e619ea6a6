package scheduler

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
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
	shape    string // namespace and labels: pods of one shape are selected alike
	near     []term // required affinity
	far      []term // required anti-affinity
	wishes   []term // preferred ones
}

// group is how many pods of one shape a node has, without those on their way out.
type group struct {
	shape string
	pod   *corev1.Pod // one of them
	count int
}

func place(pod *corev1.Pod) placed {
	p := placed{
		pod:      pod,
		requests: amounts(resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{UseStatusResources: true})),
		scoring: amounts(resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{
			UseStatusResources: true, NonMissingContainerRequests: scoringDefaults(),
		})),
	}
	p.shape = pod.Namespace + "/" + labels.FormatLabels(pod.Labels)
	p.near, p.far = required(pod)
	p.wishes = preferred(pod)
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
	groups      []group
	requested   resources
	scoring     resources
}

// regroup counts a pod in or out.
func regroup(groups []group, p placed, by int) []group {
	if p.pod.DeletionTimestamp != nil {
		return groups
	}
	at := slices.IndexFunc(groups, func(g group) bool { return g.shape == p.shape })
	switch {
	case at < 0:
		return append(slices.Clip(groups), group{p.shape, p.pod, by})
	case groups[at].count+by == 0:
		return slices.Delete(slices.Clone(groups), at, at+1)
	}
	groups = slices.Clone(groups)
	groups[at].count += by
	return groups
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
	clone.groups = regroup(n.groups, p, 1)
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
	clone.groups = regroup(n.groups, gone, -1)
	clone.requested = n.requested.plus(gone.requests, -1)
	clone.scoring = n.scoring.plus(gone.scoring, -1)
	return &clone
}

func hasPodAffinity(pod *corev1.Pod) bool {
	a := pod.Spec.Affinity
	return a != nil && (a.PodAffinity != nil || a.PodAntiAffinity != nil)
}
