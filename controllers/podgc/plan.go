package podgc

import (
	"cmp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"kontiki/controllers/podview"
)

// reason is why a pod is removed.
type reason string

const (
	orphaned    reason = "orphaned"    // its node does not exist
	unscheduled reason = "unscheduled" // being deleted, and no agent will ever finish that
	terminated  reason = "terminated"  // finished, and too many are kept
	stranded    reason = "stranded"    // being deleted on a node that an operator has called out of service
)

// victim is a pod to delete without grace.
type victim struct {
	pod *corev1.Pod
	why reason
}

// plan picks the pods to remove. missing holds since when a node of some pod has not
// existed; a pod counts as orphaned after the quarantine only. out are the nodes that are
// out of service. again is when the next one will be due, 0 if nothing is waited for.
func plan(pods []*corev1.Pod, missing map[string]time.Time, out map[string]bool, threshold int, quarantine time.Duration, now time.Time) (victims []victim, again time.Duration) {
	var finished []*corev1.Pod
	for _, pod := range pods {
		since, gone := missing[pod.Spec.NodeName]
		switch {
		case pod.Spec.NodeName == "" && pod.DeletionTimestamp != nil:
			victims = append(victims, victim{pod, unscheduled})
		case pod.Spec.NodeName != "" && gone:
			left := quarantine - now.Sub(since)
			if left <= 0 {
				victims = append(victims, victim{pod, orphaned})
			} else if again == 0 || left < again {
				again = left
			}
		case pod.DeletionTimestamp != nil && out[pod.Spec.NodeName]:
			victims = append(victims, victim{pod, stranded})
		case podview.Finished(pod) && pod.DeletionTimestamp == nil:
			finished = append(finished, pod)
		}
	}
	if surplus := len(finished) - threshold; threshold > 0 && surplus > 0 {
		slices.SortFunc(finished, func(a, b *corev1.Pod) int {
			return cmp.Or(evicted(b)-evicted(a), a.CreationTimestamp.Time.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
		})
		for _, pod := range finished[:surplus] {
			victims = append(victims, victim{pod, terminated})
		}
	}
	return victims, again
}

// evicted pods are the first that are not kept: they tell least.
func evicted(pod *corev1.Pod) int {
	if pod.Status.Reason == "Evicted" {
		return 1
	}
	return 0
}

// outOfService says whether an operator has said, by a taint, that a node which is not ready
// runs nothing any more: upstream's way to move pods away from a machine that is dead for
// certain, and not removed.
func outOfService(node *corev1.Node) bool {
	ready := slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
	return !ready && slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
}
