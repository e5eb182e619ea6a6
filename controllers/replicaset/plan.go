package replicaset

import (
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"

	"kontiki/controllers/podview"
)

// burst is the most pods created or deleted in one pass.
const burst = 500

// scale is what brings the number of pods to spec.replicas.
type scale struct {
	create int
	remove []*corev1.Pod
}

// plan decides how many pods to create or which to delete. related are the active
// pods of all ReplicaSets under the same controller (the Deployment's siblings).
func plan(rs *appsv1.ReplicaSet, owned, related []*corev1.Pod, now time.Time) scale {
	if rs.DeletionTimestamp != nil {
		return scale{}
	}
	active := activeOf(owned)
	diff := len(active) - int(ptr.Deref(rs.Spec.Replicas, 1))
	switch {
	case diff < 0:
		return scale{create: min(-diff, burst)}
	case diff > 0:
		return scale{remove: firstToGo(active, related, min(diff, burst), now)}
	}
	return scale{}
}

func activeOf(pods []*corev1.Pod) []*corev1.Pod {
	var active []*corev1.Pod
	for _, pod := range pods {
		if podview.Active(pod) {
			active = append(active, pod)
		}
	}
	return active
}

// trouble is why the last pass could not reach the wanted number.
type trouble struct {
	reason, message string // empty when all went well
}

// statusOf computes the status; again says when it must be computed anew though
// no event will come (a pod becomes available by time alone), 0 if never.
func statusOf(rs *appsv1.ReplicaSet, owned []*corev1.Pod, t trouble, now time.Time) (status appsv1.ReplicaSetStatus, again time.Duration) {
	status = *rs.Status.DeepCopy()
	status.Replicas, status.FullyLabeledReplicas, status.ReadyReplicas, status.AvailableReplicas = 0, 0, 0, 0
	template := labels.SelectorFromValidatedSet(rs.Spec.Template.Labels)
	terminating := int32(0)
	for _, pod := range owned {
		if !podview.Active(pod) {
			if pod.DeletionTimestamp != nil && !podview.Finished(pod) {
				terminating++
			}
			continue
		}
		status.Replicas++
		if template.Matches(labels.Set(pod.Labels)) {
			status.FullyLabeledReplicas++
		}
		if !podview.Ready(pod) {
			continue
		}
		status.ReadyReplicas++
		available, after := podview.Available(pod, rs.Spec.MinReadySeconds, now)
		if available {
			status.AvailableReplicas++
		} else if after > 0 && (again == 0 || after < again) {
			again = after
		}
	}
	status.TerminatingReplicas = &terminating
	status.ObservedGeneration = rs.Generation
	status.Conditions = withTrouble(status.Conditions, t, now)
	return status, again
}

func withTrouble(conditions []appsv1.ReplicaSetCondition, t trouble, now time.Time) []appsv1.ReplicaSetCondition {
	at := slices.IndexFunc(conditions, func(c appsv1.ReplicaSetCondition) bool {
		return c.Type == appsv1.ReplicaSetReplicaFailure
	})
	if t.reason == "" {
		if at >= 0 {
			conditions = slices.Delete(conditions, at, at+1)
		}
		return conditions
	}
	if at >= 0 {
		return conditions // as upstream: the first cause stays until it is gone
	}
	return append(conditions, appsv1.ReplicaSetCondition{
		Type:               appsv1.ReplicaSetReplicaFailure,
		Status:             corev1.ConditionTrue,
		LastTransitionTime: metav1.NewTime(now),
		Reason:             t.reason,
		Message:            t.message,
	})
}

// changed says whether a status is worth a write.
func changed(rs *appsv1.ReplicaSet, status appsv1.ReplicaSetStatus) bool {
	return !equality.Semantic.DeepEqual(rs.Status, status)
}
