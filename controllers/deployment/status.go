package deployment

import (
	"fmt"
	"math"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// Reasons of conditions, as upstream.
const (
	reasonSetUpdated       = "ReplicaSetUpdated"
	reasonFailedCreate     = "ReplicaSetCreateError"
	reasonNewSetCreated    = "NewReplicaSetCreated"
	reasonFoundNewSet      = "FoundNewReplicaSet"
	reasonNewSetAvailable  = "NewReplicaSetAvailable"
	reasonTimedOut         = "ProgressDeadlineExceeded"
	reasonPaused           = "DeploymentPaused"
	reasonResumed          = "DeploymentResumed"
	reasonEnoughAvailable  = "MinimumReplicasAvailable"
	reasonTooFewAvailable  = "MinimumReplicasUnavailable"
	messageEnough          = "Deployment has minimum availability."
	messageTooFew          = "Deployment does not have minimum availability."
	graceBeyondTheDeadline = time.Second
)

func condition(conditions []appsv1.DeploymentCondition, kind appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	at := slices.IndexFunc(conditions, func(c appsv1.DeploymentCondition) bool { return c.Type == kind })
	if at < 0 {
		return nil
	}
	return &conditions[at]
}

func without(conditions []appsv1.DeploymentCondition, kind appsv1.DeploymentConditionType) []appsv1.DeploymentCondition {
	return slices.DeleteFunc(slices.Clone(conditions), func(c appsv1.DeploymentCondition) bool { return c.Type == kind })
}

// with sets a condition unless it says so already; the time of transition moves
// only when the status changes.
func with(conditions []appsv1.DeploymentCondition, c appsv1.DeploymentCondition) []appsv1.DeploymentCondition {
	old := condition(conditions, c.Type)
	if old != nil {
		if old.Status == c.Status && old.Reason == c.Reason {
			return conditions
		}
		if old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
	}
	return append(without(conditions, c.Type), c)
}

func newCondition(kind appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string, now time.Time) appsv1.DeploymentCondition {
	return appsv1.DeploymentCondition{
		Type: kind, Status: status, Reason: reason, Message: message,
		LastUpdateTime: metav1.NewTime(now), LastTransitionTime: metav1.NewTime(now),
	}
}

func (r *rollout) note(kind appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string) {
	*r.conds = with(*r.conds, newCondition(kind, status, reason, message, r.now))
}

// notePause keeps the clock of the progress deadline from running while paused.
func (r *rollout) notePause() {
	if !hasDeadline(r.d) {
		return
	}
	progressing := condition(*r.conds, appsv1.DeploymentProgressing)
	if progressing != nil && progressing.Reason == reasonTimedOut {
		return
	}
	noted := progressing != nil && progressing.Reason == reasonPaused
	switch {
	case r.d.Spec.Paused && !noted:
		r.note(appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonPaused, "Deployment is paused")
	case !r.d.Spec.Paused && noted:
		r.note(appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonResumed, "Deployment is resumed")
	}
}

// statusNow counts; its conditions are those noted so far and Available.
func (r *rollout) statusNow() appsv1.DeploymentStatus {
	available := size(r.all, availableOf)
	status := appsv1.DeploymentStatus{
		ObservedGeneration:  r.d.Generation,
		Replicas:            size(r.all, actual),
		UpdatedReplicas:     size([]*appsv1.ReplicaSet{r.newSet}, actual),
		ReadyReplicas:       size(r.all, readyOf),
		AvailableReplicas:   available,
		UnavailableReplicas: max(0, size(r.all, wanted)-available),
		TerminatingReplicas: ptr.To(size(r.all, func(rs *appsv1.ReplicaSet) int32 { return ptr.Deref(rs.Status.TerminatingReplicas, 0) })),
		CollisionCount:      r.d.Status.CollisionCount,
		Conditions:          slices.Clone(*r.conds),
	}
	enough := newCondition(appsv1.DeploymentAvailable, corev1.ConditionTrue, reasonEnoughAvailable, messageEnough, r.now)
	if available < replicas(r.d)-maxUnavailable(r.d) {
		enough = newCondition(appsv1.DeploymentAvailable, corev1.ConditionFalse, reasonTooFewAvailable, messageTooFew, r.now)
	}
	status.Conditions = with(status.Conditions, enough)
	return status
}

// rolloutStatus adds how the rollout gets on, and failures of the ReplicaSets.
func (r *rollout) rolloutStatus() appsv1.DeploymentStatus {
	status := r.statusNow()
	if !hasDeadline(r.d) {
		status.Conditions = without(status.Conditions, appsv1.DeploymentProgressing)
	} else {
		r.progress(&status)
	}
	status.Conditions = without(status.Conditions, appsv1.DeploymentReplicaFailure)
	if failure := r.failure(); failure != nil {
		if old := condition(r.deployment.Status.Conditions, appsv1.DeploymentReplicaFailure); old != nil && old.Status == failure.Status && old.Reason == failure.Reason {
			failure = old
		}
		status.Conditions = append(status.Conditions, *failure)
	}
	return status
}

func (r *rollout) progress(status *appsv1.DeploymentStatus) {
	current := condition(*r.conds, appsv1.DeploymentProgressing)
	if status.Replicas == status.UpdatedReplicas && current != nil && current.Reason == reasonNewSetAvailable {
		return // was complete already
	}
	subject := fmt.Sprintf("Deployment %q", r.d.Name)
	if r.newSet != nil {
		subject = fmt.Sprintf("ReplicaSet %q", r.newSet.Name)
	}
	kind := appsv1.DeploymentProgressing
	switch {
	case complete(r.d, *status):
		status.Conditions = with(status.Conditions, newCondition(kind, corev1.ConditionTrue, reasonNewSetAvailable, subject+" has successfully progressed.", r.now))
	case progressing(r.deployment.Status, *status):
		c := newCondition(kind, corev1.ConditionTrue, reasonSetUpdated, subject+" is progressing.", r.now)
		if current != nil && current.Status == corev1.ConditionTrue {
			c.LastTransitionTime = current.LastTransitionTime
		}
		// Always anew: the time of the update is what the deadline counts from.
		status.Conditions = append(without(status.Conditions, kind), c)
	case timedOut(r.d, *status, *r.conds, r.now):
		status.Conditions = with(status.Conditions, newCondition(kind, corev1.ConditionFalse, reasonTimedOut, subject+" has timed out progressing.", r.now))
	}
}

func (r *rollout) failure() *appsv1.DeploymentCondition {
	sets := slices.Clone(r.old)
	if r.newSet != nil {
		sets = append([]*appsv1.ReplicaSet{r.newSet}, sets...)
	}
	for _, rs := range sets {
		for _, c := range rs.Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure && c.Status == corev1.ConditionTrue {
				return &appsv1.DeploymentCondition{
					Type: appsv1.DeploymentReplicaFailure, Status: c.Status, Reason: c.Reason, Message: c.Message,
					LastTransitionTime: c.LastTransitionTime, LastUpdateTime: c.LastTransitionTime,
				}
			}
		}
	}
	return nil
}

func hasDeadline(d *appsv1.Deployment) bool {
	return d.Spec.ProgressDeadlineSeconds != nil && *d.Spec.ProgressDeadlineSeconds != math.MaxInt32
}

func complete(d *appsv1.Deployment, status appsv1.DeploymentStatus) bool {
	n := replicas(d)
	return status.UpdatedReplicas == n && status.Replicas == n && status.AvailableReplicas == n && status.ObservedGeneration >= d.Generation
}

func progressing(old, status appsv1.DeploymentStatus) bool {
	return status.UpdatedReplicas > old.UpdatedReplicas ||
		status.Replicas-status.UpdatedReplicas < old.Replicas-old.UpdatedReplicas ||
		status.ReadyReplicas > old.ReadyReplicas || status.AvailableReplicas > old.AvailableReplicas
}

func timedOut(d *appsv1.Deployment, status appsv1.DeploymentStatus, conditions []appsv1.DeploymentCondition, now time.Time) bool {
	c := condition(conditions, appsv1.DeploymentProgressing)
	if c == nil || c.Reason == reasonNewSetAvailable {
		return false
	}
	if c.Reason == reasonTimedOut {
		return true
	}
	return c.LastUpdateTime.Add(time.Duration(*d.Spec.ProgressDeadlineSeconds) * time.Second).Before(now)
}

// untilDeadline is when a rollout that does not move has to be looked at again; 0
// if there is nothing to wait for.
func untilDeadline(d *appsv1.Deployment, status appsv1.DeploymentStatus, now time.Time) time.Duration {
	c := condition(status.Conditions, appsv1.DeploymentProgressing)
	if !hasDeadline(d) || c == nil || d.Spec.Paused || complete(d, status) || c.Reason == reasonTimedOut || c.Reason == reasonNewSetAvailable {
		return 0
	}
	left := c.LastUpdateTime.Add(time.Duration(*d.Spec.ProgressDeadlineSeconds) * time.Second).Sub(now)
	return max(left, 0) + graceBeyondTheDeadline
}

// refusedCreate is the status of a Deployment whose new ReplicaSet was refused.
func refusedCreate(d *appsv1.Deployment, set string, err error, now time.Time) *appsv1.DeploymentStatus {
	if !hasDeadline(d) {
		return nil
	}
	message := fmt.Sprintf("Failed to create new replica set %q: %v", set, err)
	status := d.Status.DeepCopy()
	status.Conditions = with(status.Conditions, newCondition(appsv1.DeploymentProgressing, corev1.ConditionFalse, reasonFailedCreate, message, now))
	return status
}
