package scheduler

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	schedulinghelper "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
)

// comparisonOperators are the Lt and Gt of tolerations.
const comparisonOperators = true

// The helpers of component-helpers want a klog logger, for tolerations whose
// values are not numbers; the API has refused those.
func quiet() klog.Logger { return klog.Logger{} }

func nodeUnschedulable() filterPlugin {
	taint := corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}
	return filterPlugin{
		name: "NodeUnschedulable", helps: nodeTaintsChanged,
		hint: nodeHint(func(_ *placed, n *corev1.Node) bool { return !n.Spec.Unschedulable }),
		prepare: func(c *cycle) *filter {
			if schedulinghelper.TolerationsTolerateTaint(quiet(), c.pod.Spec.Tolerations, &taint, comparisonOperators) {
				return nil
			}
			cordoned := never("node(s) were unschedulable")
			return &filter{check: func(_ int, n *nodeInfo) *verdict {
				if n.node.Spec.Unschedulable {
					return cordoned
				}
				return nil
			}}
		},
	}
}

func nodeName() filterPlugin {
	return filterPlugin{name: "NodeName", prepare: func(c *cycle) *filter {
		if c.pod.Spec.NodeName == "" {
			return nil
		}
		other := never("node(s) didn't match the requested node name")
		return &filter{check: func(_ int, n *nodeInfo) *verdict {
			if n.node.Name != c.pod.Spec.NodeName {
				return other
			}
			return nil
		}}
	}}
}

func taintToleration() filterPlugin {
	return filterPlugin{
		name: "TaintToleration", helps: nodeTaintsChanged,
		hint: nodeHint(func(p *placed, n *corev1.Node) bool { return !untolerated(p.pod, n, repels) }),
		prepare: func(c *cycle) *filter {
			tainted := never("node(s) had untolerated taint(s)")
			return &filter{check: func(_ int, n *nodeInfo) *verdict {
				if untolerated(c.pod, n.node, repels) {
					return tainted
				}
				return nil
			}}
		},
	}
}

func repels(t *corev1.Taint) bool {
	return t.Effect == corev1.TaintEffectNoSchedule || t.Effect == corev1.TaintEffectNoExecute
}

func untolerated(pod *corev1.Pod, node *corev1.Node, which func(*corev1.Taint) bool) bool {
	if len(node.Spec.Taints) == 0 {
		return false
	}
	_, found := schedulinghelper.FindMatchingUntoleratedTaint(quiet(), node.Spec.Taints, pod.Spec.Tolerations, which, comparisonOperators)
	return found
}

// scoreTaints prefers nodes with fewer PreferNoSchedule taints the pod minds.
func scoreTaints(c *cycle) *scorer {
	gentle := func(t corev1.Taint) bool { return t.Effect == corev1.TaintEffectPreferNoSchedule }
	if !slices.ContainsFunc(c.nodes, func(n *nodeInfo) bool { return slices.ContainsFunc(n.node.Spec.Taints, gentle) }) {
		return nil // all would be equal
	}
	var tolerations []corev1.Toleration
	for _, t := range c.pod.Spec.Tolerations {
		if t.Effect == "" || t.Effect == corev1.TaintEffectPreferNoSchedule {
			tolerations = append(tolerations, t)
		}
	}
	return &scorer{each: func(nodes []int, scores []int64) {
		for i, at := range nodes {
			scores[i] = 0
			for _, taint := range c.nodes[at].node.Spec.Taints {
				if gentle(taint) && !schedulinghelper.TolerationsTolerateTaint(quiet(), tolerations, &taint, comparisonOperators) {
					scores[i]++
				}
			}
		}
		normalize(scores, true)
	}}
}

func nodeAffinity() filterPlugin {
	return filterPlugin{
		name: "NodeAffinity", helps: nodeLabelsChanged,
		hint: nodeHint(func(p *placed, n *corev1.Node) bool {
			match, err := nodeaffinity.GetRequiredNodeAffinity(p.pod).Match(n)
			return match && err == nil
		}),
		prepare: func(c *cycle) *filter {
			if len(c.pod.Spec.NodeSelector) == 0 && requiredNodes(c.pod) == nil {
				return nil
			}
			required := nodeaffinity.GetRequiredNodeAffinity(c.pod)
			elsewhere := never("node(s) didn't match Pod's node affinity/selector")
			return &filter{check: func(_ int, n *nodeInfo) *verdict {
				if match, err := required.Match(n.node); !match || err != nil {
					return elsewhere
				}
				return nil
			}}
		},
	}
}

func requiredNodes(pod *corev1.Pod) *corev1.NodeSelector {
	if a := pod.Spec.Affinity; a != nil && a.NodeAffinity != nil {
		return a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	}
	return nil
}

// pinnedTo are the nodes the pod asks for by name, as a DaemonSet's pods do: each of
// its terms must name some. Then no others need to be looked at.
func pinnedTo(pod *corev1.Pod) (names []string, pinned bool) {
	required := requiredNodes(pod)
	if required == nil || len(required.NodeSelectorTerms) == 0 {
		return nil, false
	}
	for _, term := range required.NodeSelectorTerms {
		at := slices.IndexFunc(term.MatchFields, func(r corev1.NodeSelectorRequirement) bool {
			return r.Key == "metadata.name" && r.Operator == corev1.NodeSelectorOpIn
		})
		if at < 0 {
			return nil, false
		}
		for _, name := range term.MatchFields[at].Values {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names, true
}

func scoreNodeAffinity(c *cycle) *scorer {
	a := c.pod.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || len(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) == 0 {
		return nil
	}
	preferred, err := nodeaffinity.NewPreferredSchedulingTerms(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	if err != nil {
		return nil // the API has refused such a pod
	}
	return &scorer{each: func(nodes []int, scores []int64) {
		for i, at := range nodes {
			scores[i] = preferred.Score(c.nodes[at].node)
		}
		normalize(scores, false)
	}}
}

func nodePorts() filterPlugin {
	return filterPlugin{
		name: "NodePorts", helps: podGone,
		hint: func(p *placed, e change) bool { return e.pod == nil || portsConflict(p.ports, e.pod.ports) },
		prepare: func(c *cycle) *filter {
			if len(c.ports) == 0 {
				return nil
			}
			taken := no("node(s) didn't have free ports for the requested pod ports")
			return &filter{check: func(_ int, n *nodeInfo) *verdict {
				for _, p := range n.ported {
					if portsConflict(c.ports, p.ports) {
						return taken
					}
				}
				return nil
			}}
		},
	}
}

func portsConflict(wanted, taken []hostPort) bool {
	return slices.ContainsFunc(wanted, func(w hostPort) bool { return slices.ContainsFunc(taken, w.conflicts) })
}
