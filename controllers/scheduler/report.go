package scheduler

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"kontiki/controllers/podview"
)

// maxEvictions bounds the victims of one pod that are told to leave at once.
const maxEvictions = 16

// reportFailure tells the user why the pod waits: an event, and the PodScheduled
// condition and the nomination, when they do not say so already.
func (s *Scheduler) reportFailure(ctx context.Context, d decision) {
	s.tell(d.pod, d.pod, nil, corev1.EventTypeWarning, "FailedScheduling", "Scheduling", "%s", d.message)
	condition := &corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse,
		Reason: corev1.PodReasonUnschedulable, Message: d.message,
		ObservedGeneration: d.pod.Generation,
	}
	var nominated *string
	if d.room.give || d.room.node != "" {
		nominated = &d.room.node
	}
	if err := s.patchStatus(ctx, d.pod, condition, nominated); err != nil && ctx.Err() == nil {
		s.log.Warn("condition PodScheduled not written", "pod", d.pod.Namespace+"/"+d.pod.Name, "error", err)
	}
}

// makeRoom nominates the pod to its node and tells the victims to leave. A crash in
// between leaves a nomination without anybody leaving: then the pod is planned anew.
func (s *Scheduler) makeRoom(ctx context.Context, d decision) {
	s.reportFailure(ctx, d)
	helps := d.helps
	if err := s.evict(ctx, d); err != nil || len(d.room.victims) == 0 {
		helps = help{}
		if err != nil && ctx.Err() == nil {
			s.log.Warn("room not made, trying again", "pod", d.pod.Namespace+"/"+d.pod.Name, "node", d.room.node, "error", err)
		}
	}
	s.requeue(d.pod.UID, helps)
}

func (s *Scheduler) evict(ctx context.Context, d decision) error {
	for _, other := range d.room.yield {
		if err := s.patchStatus(ctx, other.pod, nil, ptr.To("")); err != nil {
			return fmt.Errorf("take back the nomination of pod %s/%s: %w", other.pod.Namespace, other.pod.Name, err)
		}
	}
	var all errgroup.Group
	all.SetLimit(maxEvictions)
	for _, victim := range d.room.victims {
		all.Go(func() error { return s.preempt(ctx, d, victim.pod) })
	}
	return all.Wait()
}

// preempt tells one pod to leave, as soon as what it says of itself says why.
func (s *Scheduler) preempt(ctx context.Context, d decision, victim *corev1.Pod) error {
	if victim.DeletionTimestamp != nil {
		return nil
	}
	err := s.patchStatus(ctx, victim, &corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonPreemptionByScheduler,
		Message:            d.pod.Spec.SchedulerName + ": preempting to accommodate a higher priority pod",
		ObservedGeneration: victim.Generation,
	}, nil)
	if err == nil {
		err = s.client.CoreV1().Pods(victim.Namespace).Delete(ctx, victim.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &victim.UID}})
	}
	if apierrors.IsConflict(err) { // another one has its name, or it was written to meanwhile
		if now, lookErr := s.client.CoreV1().Pods(victim.Namespace).Get(ctx, victim.Name, metav1.GetOptions{}); lookErr != nil {
			err = lookErr
		} else if now.UID != victim.UID {
			return nil
		}
	}
	if apierrors.IsNotFound(err) {
		return nil // it left already
	}
	if err != nil {
		return fmt.Errorf("preempt pod %s/%s: %w", victim.Namespace, victim.Name, err)
	}
	s.cache.preempted(victim.UID)
	s.tell(d.pod, victim, d.pod, corev1.EventTypeNormal, "Preempted", "Preempting", "Preempted by pod %v on node %v", d.pod.UID, d.room.node)
	return nil
}

// patchStatus writes a condition and the nominated node, each if given and if it
// says anything new. The pod must still be the one with that UID; one that is gone
// needs no status.
func (s *Scheduler) patchStatus(ctx context.Context, pod *corev1.Pod, condition *corev1.PodCondition, nominated *string) error {
	patch := statusPatch(pod, condition, nominated, s.now())
	if patch == nil {
		return nil
	}
	_, err := s.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func statusPatch(pod *corev1.Pod, condition *corev1.PodCondition, nominated *string, now time.Time) []byte {
	status := map[string]any{}
	if condition != nil && !says(pod, condition, now) {
		status["conditions"] = []*corev1.PodCondition{condition}
	}
	if nominated != nil && *nominated != pod.Status.NominatedNodeName {
		status["nominatedNodeName"] = nominated
		if *nominated == "" {
			status["nominatedNodeName"] = nil
		}
	}
	if len(status) == 0 {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status})
	if err != nil {
		return nil // maps of strings and a PodCondition can always be marshalled
	}
	return patch
}

// says tells whether the pod has the condition already; if not, the new one gets
// its time.
func says(pod *corev1.Pod, c *corev1.PodCondition, now time.Time) bool {
	c.LastTransitionTime = metav1.NewTime(now)
	old := podview.Condition(pod, c.Type)
	if old == nil {
		return false
	}
	if old.Status == c.Status {
		c.LastTransitionTime = old.LastTransitionTime
	}
	return old.Status == c.Status && old.Reason == c.Reason && old.Message == c.Message
}
