package scheduler

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// event is a set of things that happen in a cluster and may help a waiting pod.
type event uint

const (
	nodeAdded event = 1 << iota
	nodeGone
	nodeTaintsChanged
	nodeLabelsChanged
	nodeAllocatableChanged
	podAdded         // on a node
	podGone          // from a node
	podLabelsChanged // of a pod on a node
	storageChanged   // a claim, a volume or a class
)

// change is something that happened: to a node or to a pod that has one.
type change struct {
	event
	node, oldNode *corev1.Node // after and before; one of them may be missing
	pod           *placed
	before        *corev1.Pod // an earlier version, if labels differ
	smaller       bool        // podGone is no more than that: the pod may take up less
	namespace     func(string) labels.Set
	stored        string // what became of a claim, a volume or a class, in upstream's words
}

// label is upstream's name of the change. Of several changes at once it is the first that upstream
// would look at.
func (e change) label() string {
	switch {
	case e.event&storageChanged != 0:
		return e.stored
	case e.event&nodeAdded != 0:
		return "NodeAdd"
	case e.event&nodeGone != 0:
		return "NodeDelete"
	case e.event&nodeAllocatableChanged != 0:
		return "NodeUpdateNodeAllocatable"
	case e.event&nodeLabelsChanged != 0:
		return "NodeUpdateNodeLabel"
	case e.event&nodeTaintsChanged != 0:
		return "NodeUpdateNodeTaint"
	case e.event&podAdded != 0:
		return "AssignedPodAdd"
	case e.event&podLabelsChanged != 0:
		return "AssignedPodUpdatePodLabel"
	case e.smaller:
		return "AssignedPodUpdatePodScaleDown"
	default:
		return "AssignedPodDelete"
	}
}

// hasLabel says whether the node has or had the label.
func (e change) hasLabel(key string) bool {
	return slices.ContainsFunc([]*corev1.Node{e.node, e.oldNode}, func(n *corev1.Node) bool {
		if n == nil {
			return false
		}
		_, ok := n.Labels[key]
		return ok
	})
}

// hint says whether a change that a plugin waits for may help a pod, upstream's
// queueing hint.
type hint func(p *placed, e change) bool

// nodeHint asks about the node after the change; changes of pods may always help.
func nodeHint(will func(*placed, *corev1.Node) bool) hint {
	return func(p *placed, e change) bool {
		return e.pod != nil || e.node != nil && will(p, e.node)
	}
}

// help is what may let another attempt at a pod succeed.
type help struct {
	pod     *placed
	events  event
	plugins []filterPlugin // that said no; none: any of the events helps
}

func (h help) by(e change) bool {
	if h.events&e.event == 0 {
		return false
	}
	if len(h.plugins) == 0 {
		return true
	}
	return slices.ContainsFunc(h.plugins, func(p filterPlugin) bool {
		return (p.helps|nodeAdded)&e.event != 0 && (p.hint == nil || p.hint(h.pod, e))
	})
}
