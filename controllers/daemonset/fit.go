package daemonset

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	schedulinghelper "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"kontiki/controllers/podcontrol"
)

// tolerations every daemon pod gets: it stays on nodes that are not ready, cannot be
// reached, are short of something or are closed to others.
func tolerations(spec *corev1.PodSpec) []corev1.Toleration {
	all := []corev1.Toleration{
		{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute},
		{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute},
		{Key: corev1.TaintNodeDiskPressure, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule},
		{Key: corev1.TaintNodeMemoryPressure, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule},
		{Key: corev1.TaintNodePIDPressure, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule},
		{Key: corev1.TaintNodeUnschedulable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule},
	}
	if spec.HostNetwork {
		all = append(all, corev1.Toleration{Key: corev1.TaintNodeNetworkUnavailable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule})
	}
	return all
}

// newPod is the set's pod for one node, which the scheduler binds there.
func newPod(set *appsv1.DaemonSet, hash, node string) *corev1.Pod {
	pod := podcontrol.PodOf(set, kind, &set.Spec.Template)
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	pod.Labels[appsv1.ControllerRevisionHashLabelKey] = hash
	for _, t := range tolerations(&pod.Spec) {
		pod.Spec.Tolerations = withToleration(pod.Spec.Tolerations, t)
	}
	pod.Spec.Affinity = onlyOn(pod.Spec.Affinity, node)
	return pod
}

func withToleration(have []corev1.Toleration, t corev1.Toleration) []corev1.Toleration {
	for i := range have {
		if have[i].MatchToleration(&t) {
			have[i] = t
			return have
		}
	}
	return append(have, t)
}

// onlyOn replaces what a node must be by which node it must be; what it must be has
// been checked before the pod is made.
func onlyOn(affinity *corev1.Affinity, node string) *corev1.Affinity {
	if affinity == nil {
		affinity = &corev1.Affinity{}
	}
	if affinity.NodeAffinity == nil {
		affinity.NodeAffinity = &corev1.NodeAffinity{}
	}
	affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
		MatchFields: []corev1.NodeSelectorRequirement{{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}},
	}}}
	return affinity
}

// target is the node a daemon pod is meant for, bound or not.
func target(pod *corev1.Pod) string {
	if pod.Spec.NodeName != "" {
		return pod.Spec.NodeName
	}
	if a := pod.Spec.Affinity; a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
			for _, e := range term.MatchFields {
				if e.Key == metav1.ObjectNameField && e.Operator == corev1.NodeSelectorOpIn && len(e.Values) == 1 {
					return e.Values[0]
				}
			}
		}
	}
	return ""
}

// fits says whether a node should get a pod, and whether one that is there may stay:
// a taint NoSchedule keeps new ones out only.
func fits(set *appsv1.DaemonSet, node *corev1.Node) (get, stay bool) {
	spec := &set.Spec.Template.Spec
	if spec.NodeName != "" && spec.NodeName != node.Name {
		return false, false
	}
	if ok, err := nodeaffinity.GetRequiredNodeAffinity(&corev1.Pod{Spec: *spec}).Match(node); err != nil || !ok {
		return false, false
	}
	tolerated := append(append([]corev1.Toleration(nil), spec.Tolerations...), tolerations(spec)...)
	untolerated := func(effects ...corev1.TaintEffect) bool {
		_, found := schedulinghelper.FindMatchingUntoleratedTaint(klog.Logger{}, node.Spec.Taints, tolerated, func(t *corev1.Taint) bool {
			for _, e := range effects {
				if t.Effect == e {
					return true
				}
			}
			return false
		}, true)
		return found
	}
	stay = !untolerated(corev1.TaintEffectNoExecute)
	return stay && !untolerated(corev1.TaintEffectNoSchedule), stay
}
