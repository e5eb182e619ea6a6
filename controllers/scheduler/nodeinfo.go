package scheduler

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	resourcehelper "k8s.io/component-helpers/resource"
	schedulinghelper "k8s.io/component-helpers/scheduling/corev1"

	"kontiki/controllers/podview"
)

// What a container without requests counts for in scoring, as upstream.
const (
	defaultMilliCPU = 100
	defaultMemory   = 200 << 20
)

var scoringDefaults = corev1.ResourceList{
	corev1.ResourceCPU:    *resource.NewMilliQuantity(defaultMilliCPU, resource.DecimalSI),
	corev1.ResourceMemory: *resource.NewQuantity(defaultMemory, resource.BinarySI),
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

// placed is a pod with what planning asks about it worked out once. It is never
// changed: as and doomed return new ones.
type placed struct {
	pod       *corev1.Pod
	priority  int32
	requests  resources
	scoring   resources // cpu and memory, with defaults for containers that request none
	ports     []hostPort
	shape     string // namespace and labels: pods of one shape are selected alike
	near      []term // required affinity
	far       []term // required anti-affinity
	wishes    []term // preferred ones
	preempted bool   // it was told to go, to make room
}

// group is how many pods of one shape a node has, without those on their way out.
type group struct {
	shape string
	pod   *corev1.Pod // one of them
	count int
}

func place(pod *corev1.Pod) *placed {
	p := &placed{
		pod:       pod,
		priority:  schedulinghelper.PodPriority(pod),
		preempted: leavesByPreemption(pod),
	}
	p.requests, p.scoring = requestsOf(pod)
	p.label()
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

// requestsOf is what a pod requests, and that with what counts in scoring for containers
// that do not say. The library works it out from maps, several times over, for what
// containers were given may differ from what they request. Most pods are new and have one
// container: its requests are the pod's.
func requestsOf(pod *corev1.Pod) (requests, scoring resources) {
	if !plain(pod) {
		options := resourcehelper.PodResourcesOptions{UseStatusResources: true}
		requests = amounts(resourcehelper.PodRequests(pod, options))
		options.NonMissingContainerRequests = scoringDefaults
		return requests, amounts(resourcehelper.PodRequests(pod, options))
	}
	list := pod.Spec.Containers[0].Resources.Requests
	requests = amounts(list)
	scoring = requests
	if _, said := list[corev1.ResourceCPU]; !said {
		scoring.cpu = defaultMilliCPU
	}
	if _, said := list[corev1.ResourceMemory]; !said {
		scoring.memory = defaultMemory
	}
	return requests, scoring
}

// plain tells whether a pod requests what its one container does.
func plain(pod *corev1.Pod) bool {
	return len(pod.Spec.Containers) == 1 && len(pod.Spec.InitContainers) == 0 && pod.Spec.Overhead == nil && pod.Spec.Resources == nil &&
		len(pod.Spec.ResourceClaims) == 0 && len(pod.Status.ContainerStatuses) == 0 && len(pod.Status.InitContainerStatuses) == 0 &&
		!resourcehelper.IsPodResizeInfeasible(pod)
}

// label works out what follows from the pod's labels.
func (p *placed) label() {
	p.shape = p.pod.Namespace + "/" + labels.FormatLabels(p.pod.Labels)
	p.near, p.far = required(p.pod)
	p.wishes = preferred(p.pod)
}

// as is the same for another version of the pod that wants no more or less, as one that
// was bound: what it requests is dear to work out. Labels may have changed: a binding
// brings the zone.
func (p *placed) as(pod *corev1.Pod) *placed {
	clone := *p
	clone.pod = pod
	if !maps.Equal(p.pod.Labels, pod.Labels) {
		clone.label()
	}
	clone.preempted = p.preempted || leavesByPreemption(pod)
	return &clone
}

func leavesByPreemption(pod *corev1.Pod) bool {
	if pod.DeletionTimestamp == nil {
		return false
	}
	c := podview.Condition(pod, corev1.DisruptionTarget)
	return c != nil && c.Status == corev1.ConditionTrue && c.Reason == corev1.PodReasonPreemptionByScheduler
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

// nodeInfo is a node with the pods on it. It is never changed: with, without and
// the like return new ones, so that a pointer stands for what was known at a time.
type nodeInfo struct {
	node        *corev1.Node // nil while only pods of the node are known
	allocatable resources
	slots       int64            // how many pods it takes
	images      map[string]int64 // sizes by name
	pods        []*placed
	picky       []*placed // those of pods with inter-pod affinity or anti-affinity
	ported      []*placed // those of pods with host ports
	groups      []group
	requested   resources
	scoring     resources
}

func (n *nodeInfo) withNode(node *corev1.Node) *nodeInfo {
	clone := *n
	clone.node = node
	clone.allocatable, clone.slots, clone.images = resources{}, 0, nil
	if node != nil {
		clone.allocatable = amounts(node.Status.Allocatable)
		clone.slots = node.Status.Allocatable.Pods().Value()
		clone.images = imagesOf(node)
	}
	return &clone
}

func (n *nodeInfo) with(p *placed) *nodeInfo {
	clone := *n
	clone.pods = append(slices.Clip(n.pods), p)
	if p.picky() {
		clone.picky = append(slices.Clip(n.picky), p)
	}
	if len(p.ports) > 0 {
		clone.ported = append(slices.Clip(n.ported), p)
	}
	clone.groups = regroup(n.groups, p, 1)
	clone.requested = n.requested.plus(p.requests, 1)
	clone.scoring = n.scoring.plus(p.scoring, 1)
	return &clone
}

func (n *nodeInfo) without(uid types.UID) *nodeInfo {
	at := slices.IndexFunc(n.pods, func(p *placed) bool { return p.pod.UID == uid })
	if at < 0 {
		return n
	}
	gone := n.pods[at]
	clone := *n
	clone.pods = slices.Delete(slices.Clone(n.pods), at, at+1)
	clone.picky = drop(n.picky, gone)
	clone.ported = drop(n.ported, gone)
	clone.groups = regroup(n.groups, gone, -1)
	clone.requested = n.requested.plus(gone.requests, -1)
	clone.scoring = n.scoring.plus(gone.scoring, -1)
	return &clone
}

// replacing swaps a pod for another version of it that planning sees alike.
func (n *nodeInfo) replacing(old, p *placed) *nodeInfo {
	clone := *n
	swap := func(list []*placed) []*placed {
		at := slices.Index(list, old)
		if at < 0 {
			return list
		}
		list = slices.Clone(list)
		list[at] = p
		return list
	}
	clone.pods, clone.picky, clone.ported = swap(n.pods), swap(n.picky), swap(n.ported)
	return &clone
}

func drop(list []*placed, p *placed) []*placed {
	at := slices.Index(list, p)
	if at < 0 {
		return list
	}
	return slices.Delete(slices.Clone(list), at, at+1)
}

// regroup counts a pod in or out.
func regroup(groups []group, p *placed, by int) []group {
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

func (p *placed) picky() bool { return len(p.near)+len(p.far)+len(p.wishes) > 0 }
