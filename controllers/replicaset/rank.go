package replicaset

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kontiki/controllers/podview"
)

// firstToGo picks the n pods whose loss hurts least, in the order documented for
// ReplicaSets: unassigned, pending, not ready, cheap by
// controller.kubernetes.io/pod-deletion-cost, on crowded nodes, ready for a short
// time (on a logarithmic scale), often restarted, young.
func firstToGo(active, related []*corev1.Pod, n int, now time.Time) []*corev1.Pod {
	if n >= len(active) {
		return active
	}
	crowd := map[string]int{}
	for _, pod := range related {
		if pod.Spec.NodeName != "" && podview.Active(pod) {
			crowd[pod.Spec.NodeName]++
		}
	}
	sorted := slices.Clone(active)
	slices.SortStableFunc(sorted, func(a, b *corev1.Pod) int { return compare(a, b, crowd, now) })
	return sorted[:n]
}

// compare is negative when a goes before b.
func compare(a, b *corev1.Pod, crowd map[string]int, now time.Time) int {
	return cmp.Or(
		falseFirst(a.Spec.NodeName != "", b.Spec.NodeName != ""),
		cmp.Compare(phaseRank(a), phaseRank(b)),
		falseFirst(podview.Ready(a), podview.Ready(b)),
		cmp.Compare(deletionCost(a), deletionCost(b)),
		cmp.Compare(crowd[b.Spec.NodeName], crowd[a.Spec.NodeName]),
		compareReadyTime(a, b, now),
		compareRestarts(a, b),
		compareAge(a.CreationTimestamp, b.CreationTimestamp, now),
		cmp.Compare(a.UID, b.UID),
	)
}

func falseFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func phaseRank(pod *corev1.Pod) int {
	switch pod.Status.Phase {
	case corev1.PodUnknown:
		return 1
	case corev1.PodRunning:
		return 2
	}
	return 0
}

func deletionCost(pod *corev1.Pod) int32 {
	cost, err := strconv.ParseInt(pod.Annotations[corev1.PodDeletionCost], 10, 32)
	if err != nil {
		return 0
	}
	return int32(cost)
}

func compareReadyTime(a, b *corev1.Pod, now time.Time) int {
	if !podview.Ready(a) || !podview.Ready(b) {
		return 0
	}
	return compareAge(podview.Condition(a, corev1.PodReady).LastTransitionTime,
		podview.Condition(b, corev1.PodReady).LastTransitionTime, now)
}

// compareAge puts the younger first, but holds ages of one order of magnitude (in
// powers of two) for equal, so that survivors are not all of one age.
func compareAge(a, b metav1.Time, now time.Time) int {
	if a.IsZero() != b.IsZero() {
		return falseFirst(!a.IsZero(), !b.IsZero())
	}
	return cmp.Compare(magnitude(now.Sub(a.Time)), magnitude(now.Sub(b.Time)))
}

func magnitude(age time.Duration) int64 {
	if age <= 0 {
		return -1
	}
	return int64(math.Log2(float64(age)))
}

// compareRestarts puts first the one of which some container was restarted more often; of
// sidecars only if that is equal.
func compareRestarts(a, b *corev1.Pod) int {
	x, sidecarX := maxRestarts(a)
	y, sidecarY := maxRestarts(b)
	return cmp.Or(cmp.Compare(y, x), cmp.Compare(sidecarY, sidecarX))
}

func maxRestarts(pod *corev1.Pod) (regular, sidecar int32) {
	for _, c := range pod.Status.ContainerStatuses {
		regular = max(regular, c.RestartCount)
	}
	always := map[string]bool{}
	for _, c := range pod.Spec.InitContainers {
		always[c.Name] = c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
	}
	for _, c := range pod.Status.InitContainerStatuses {
		if always[c.Name] {
			sidecar = max(sidecar, c.RestartCount)
		}
	}
	return regular, sidecar
}
