package disruption

import (
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"kontiki/controllers/podview"
)

// patience is how long a pod whose eviction was granted is waited for to be deleted;
// after that it counts as healthy again.
const patience = 2 * time.Minute

// world is what is known of one budget.
type world struct {
	budget *policyv1.PodDisruptionBudget
	pods   []*corev1.Pod // its selector matches
	// scale is how many pods the controllers of these pods want in all; unknown says
	// why that cannot be told.
	scale   int
	unknown string
	now     time.Time
}

// actions is what follows. A crash before any of it changes nothing.
type actions struct {
	status  *policyv1.PodDisruptionBudgetStatus // to write; nil if it is as it should be
	overdue []*corev1.Pod                       // their eviction was granted, and nobody deleted them
	again   time.Duration                       // when the status changes by time alone; 0 if it does not
}

// plan works out the status. While it is not known how many pods there should be,
// nothing may be evicted, and all else stays as it was last known.
func plan(w world) (a actions) {
	next := w.budget.Status.DeepCopy()
	condition := metav1.Condition{Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, LastTransitionTime: metav1.NewTime(w.now)}
	expected, desired, why := wanted(w)
	switch {
	case why != "":
		next.DisruptionsAllowed = 0
		condition.Reason, condition.Message = policyv1.SyncFailedReason, why
	default:
		next.ObservedGeneration = w.budget.Generation
		next.DisruptedPods, a.overdue, a.again = stillWaitedFor(w)
		next.ExpectedPods, next.DesiredHealthy, next.CurrentHealthy = int32(expected), int32(desired), healthy(w.pods, next.DisruptedPods)
		next.DisruptionsAllowed = max(next.CurrentHealthy-next.DesiredHealthy, 0)
		if expected <= 0 {
			next.DisruptionsAllowed = 0
		}
		condition.Reason = policyv1.InsufficientPodsReason
		if next.DisruptionsAllowed > 0 {
			condition.Status, condition.Reason = metav1.ConditionTrue, policyv1.SufficientPodsReason
		}
	}
	condition.ObservedGeneration = next.ObservedGeneration
	meta.SetStatusCondition(&next.Conditions, condition)
	if !equality.Semantic.DeepEqual(&w.budget.Status, next) {
		a.status = next
	}
	return a
}

// healthy counts the pods that serve and that nobody was allowed to evict.
func healthy(pods []*corev1.Pod, leaving map[string]metav1.Time) (count int32) {
	for _, pod := range pods {
		if _, ok := leaving[pod.Name]; !ok && podview.Active(pod) && podview.Ready(pod) {
			count++
		}
	}
	return count
}

// shares says whether a budget is a share of what the pods' controllers want.
func shares(b *policyv1.PodDisruptionBudget) bool {
	return b.Spec.MaxUnavailable != nil || b.Spec.MinAvailable != nil && b.Spec.MinAvailable.Type == intstr.String
}

// wanted is how many pods there should be, and how many of them healthy. Numbers are
// of the pods there are; shares are of what their controllers want.
func wanted(w world) (expected, desired int, why string) {
	spec := &w.budget.Spec
	if !shares(w.budget) {
		if spec.MinAvailable != nil {
			desired = spec.MinAvailable.IntValue()
		}
		return len(w.pods), desired, ""
	}
	if w.unknown != "" {
		return 0, 0, w.unknown
	}
	share := spec.MinAvailable
	if spec.MaxUnavailable != nil {
		share = spec.MaxUnavailable
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(share, w.scale, true)
	if err != nil {
		return 0, 0, err.Error()
	}
	if spec.MaxUnavailable != nil {
		n = max(w.scale-n, 0)
	}
	return w.scale, n, ""
}

// stillWaitedFor are the pods whose eviction was granted and whose deletion is not
// seen yet, without those that are overdue. again says when the next one will be.
func stillWaitedFor(w world) (left map[string]metav1.Time, overdue []*corev1.Pod, again time.Duration) {
	left = maps.Clone(w.budget.Status.DisruptedPods)
	there := map[string]*corev1.Pod{}
	for _, pod := range w.pods {
		there[pod.Name] = pod
	}
	for _, name := range slices.Sorted(maps.Keys(left)) {
		rest := left[name].Add(patience).Sub(w.now)
		pod := there[name]
		switch {
		case pod == nil || pod.DeletionTimestamp != nil:
			delete(left, name)
		case rest <= 0:
			delete(left, name)
			overdue = append(overdue, pod)
		case again == 0 || rest < again:
			again = rest
		}
	}
	return left, overdue, again
}
