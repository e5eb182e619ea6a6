package disruption

import (
	"maps"
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

// plan works out the status. again says when it changes by time alone.
func plan(w world) (status *policyv1.PodDisruptionBudgetStatus, again time.Duration) {
	next := w.budget.Status.DeepCopy()
	next.ObservedGeneration = w.budget.Generation
	next.DisruptedPods, again = stillWaitedFor(w)
	healthy := int32(0)
	for _, pod := range w.pods {
		if _, leaving := next.DisruptedPods[pod.Name]; !leaving && podview.Active(pod) && podview.Ready(pod) {
			healthy++
		}
	}
	expected, desired, why := wanted(w)
	condition := metav1.Condition{Type: policyv1.DisruptionAllowedCondition, ObservedGeneration: w.budget.Generation, LastTransitionTime: metav1.NewTime(w.now)}
	switch {
	case why != "":
		// As long as it is not known, nothing may be evicted.
		next.DisruptionsAllowed = 0
		condition.Status, condition.Reason, condition.Message = metav1.ConditionFalse, policyv1.SyncFailedReason, why
	default:
		next.ExpectedPods, next.DesiredHealthy, next.CurrentHealthy = int32(expected), int32(desired), healthy
		next.DisruptionsAllowed = max(healthy-int32(desired), 0)
		if expected <= 0 {
			next.DisruptionsAllowed = 0
		}
		condition.Status, condition.Reason = metav1.ConditionTrue, policyv1.SufficientPodsReason
		if next.DisruptionsAllowed == 0 {
			condition.Status, condition.Reason = metav1.ConditionFalse, policyv1.InsufficientPodsReason
		}
	}
	meta.SetStatusCondition(&next.Conditions, condition)
	if equality.Semantic.DeepEqual(&w.budget.Status, next) {
		return nil, again
	}
	return next, again
}

// wanted is how many pods there should be, and how many of them healthy. Numbers are
// of the pods there are; shares are of what their controllers want.
func wanted(w world) (expected, desired int, why string) {
	spec := &w.budget.Spec
	if spec.MaxUnavailable == nil && (spec.MinAvailable == nil || spec.MinAvailable.Type == intstr.Int) {
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
// seen yet.
func stillWaitedFor(w world) (left map[string]metav1.Time, again time.Duration) {
	left = maps.Clone(w.budget.Status.DisruptedPods)
	there := map[string]*corev1.Pod{}
	for _, pod := range w.pods {
		there[pod.Name] = pod
	}
	for name, at := range left {
		rest := at.Add(patience).Sub(w.now)
		if pod := there[name]; pod == nil || pod.DeletionTimestamp != nil || rest <= 0 {
			delete(left, name)
		} else if again == 0 || rest < again {
			again = rest
		}
	}
	return left, again
}
