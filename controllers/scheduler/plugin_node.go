package scheduler

import (
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
	return filterPlugin{"NodeUnschedulable", nodeTaintsChanged, func(c *cycle) func(*nodeInfo) []string {
		if schedulinghelper.TolerationsTolerateTaint(quiet(), c.pod.Spec.Tolerations, &taint, comparisonOperators) {
			return nil
		}
		return func(n *nodeInfo) []string {
			if n.node.Spec.Unschedulable {
				return []string{"node(s) were unschedulable"}
			}
			return nil
		}
	}}
}

func nodeName() filterPlugin {
	return filterPlugin{"NodeName", 0, func(c *cycle) func(*nodeInfo) []string {
		if c.pod.Spec.NodeName == "" {
			return nil
		}
		return func(n *nodeInfo) []string {
			if n.node.Name != c.pod.Spec.NodeName {
				return []string{"node(s) didn't match the requested node name"}
			}
			return nil
		}
	}}
}

func taintToleration() filterPlugin {
	return filterPlugin{"TaintToleration", nodeTaintsChanged, func(c *cycle) func(*nodeInfo) []string {
		return func(n *nodeInfo) []string {
			if untolerated(c.pod, n.node, repels) {
				return []string{"node(s) had untolerated taint(s)"}
			}
			return nil
		}
	}}
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
func scoreTaints(c *cycle, nodes []*nodeInfo) []int64 {
	var tolerations []corev1.Toleration
	for _, t := range c.pod.Spec.Tolerations {
		if t.Effect == "" || t.Effect == corev1.TaintEffectPreferNoSchedule {
			tolerations = append(tolerations, t)
		}
	}
	scores := make([]int64, len(nodes))
	for i, n := range nodes {
		for _, taint := range n.node.Spec.Taints {
			if taint.Effect == corev1.TaintEffectPreferNoSchedule &&
				!schedulinghelper.TolerationsTolerateTaint(quiet(), tolerations, &taint, comparisonOperators) {
				scores[i]++
			}
		}
	}
	return normalize(scores, true)
}

func nodeAffinity() filterPlugin {
	return filterPlugin{"NodeAffinity", nodeLabelsChanged, func(c *cycle) func(*nodeInfo) []string {
		a := c.pod.Spec.Affinity
		if len(c.pod.Spec.NodeSelector) == 0 && (a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil) {
			return nil
		}
		required := nodeaffinity.GetRequiredNodeAffinity(c.pod)
		return func(n *nodeInfo) []string {
			if match, err := required.Match(n.node); !match || err != nil {
				return []string{"node(s) didn't match Pod's node affinity/selector"}
			}
			return nil
		}
	}}
}

func scoreNodeAffinity(c *cycle, nodes []*nodeInfo) []int64 {
	a := c.pod.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || len(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) == 0 {
		return nil
	}
	preferred, err := nodeaffinity.NewPreferredSchedulingTerms(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	if err != nil {
		return nil // the API has refused such a pod
	}
	scores := make([]int64, len(nodes))
	for i, n := range nodes {
		scores[i] = preferred.Score(n.node)
	}
	return normalize(scores, false)
}

func nodePorts() filterPlugin {
	return filterPlugin{"NodePorts", podGone, func(c *cycle) func(*nodeInfo) []string {
		if len(c.ports) == 0 {
			return nil
		}
		return func(n *nodeInfo) []string {
			for _, p := range n.pods {
				for _, taken := range p.ports {
					for _, wanted := range c.ports {
						if wanted.conflicts(taken) {
							return []string{"node(s) didn't have free ports for the requested pod ports"}
						}
					}
				}
			}
			return nil
		}
	}}
}
