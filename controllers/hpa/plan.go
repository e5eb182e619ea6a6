package hpa

import (
	"fmt"
	"slices"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// world is what is known of one autoscaler.
type world struct {
	hpa      *autoscalingv2.HorizontalPodAutoscaler
	scale    *autoscalingv1.Scale
	scaleErr error // why there is no scale
	// selectorErr says why the scale's selector cannot be used; rivals are the
	// autoscalers, this one among them, whose pods it selects.
	selectorErr error
	rivals      []string
	pods        []*corev1.Pod // that the selector matches
	readings    []reading     // of each metric
	memory      memory
	now         time.Time
}

// outcome is what is done: first the size is written, then resized completes the
// status. A crash in between leaves the size changed and the status behind; the next
// look finds nothing to change and repairs the status.
type outcome struct {
	status  *autoscalingv2.HorizontalPodAutoscalerStatus
	resize  *int32 // the new size
	reason  string // for it
	events  []event
	memory  memory
	problem error // what the log is told
}

type event struct{ kind, reason, message string }

func (o *outcome) warn(reason, format string, args ...any) {
	o.events = append(o.events, event{corev1.EventTypeWarning, reason, fmt.Sprintf(format, args...)})
}

func (o *outcome) condition(w *world, kind autoscalingv2.HorizontalPodAutoscalerConditionType, status corev1.ConditionStatus, reason, format string, args ...any) {
	message := format
	if len(args) > 0 {
		message = fmt.Sprintf(format, args...)
	}
	for i := range o.status.Conditions {
		c := &o.status.Conditions[i]
		if c.Type != kind {
			continue
		}
		if c.Status != status {
			c.LastTransitionTime = metav1.NewTime(w.now)
		}
		c.Status, c.Reason, c.Message = status, reason, message
		return
	}
	o.status.Conditions = append(o.status.Conditions, autoscalingv2.HorizontalPodAutoscalerCondition{
		Type: kind, Status: status, Reason: reason, Message: message, LastTransitionTime: metav1.NewTime(w.now),
	})
}

// plan works out the size and the status.
func plan(w world) outcome {
	o := outcome{status: w.hpa.Status.DeepCopy(), memory: w.memory}
	o.status.ObservedGeneration = &w.hpa.Generation
	if w.scaleErr != nil {
		o.warn("FailedGetScale", "%v", w.scaleErr)
		o.condition(&w, autoscalingv2.AbleToScale, corev1.ConditionFalse, "FailedGetScale", "the HPA controller was unable to get the target's current scale: %v", w.scaleErr)
		o.problem = w.scaleErr
		return o
	}
	o.condition(&w, autoscalingv2.AbleToScale, corev1.ConditionTrue, "SucceededGetScale", "the HPA controller was able to get the target's current scale")
	current := w.scale.Spec.Replicas
	o.status.CurrentReplicas = current
	if o.memory.recommended == nil {
		o.memory.recommended = []moment{{current, w.now}}
		w.memory = o.memory
	}
	least := ptr.Deref(w.hpa.Spec.MinReplicas, 1)
	switch {
	case current == 0 && !w.sleeps(least):
		o.condition(&w, autoscalingv2.ScalingActive, corev1.ConditionFalse, "ScalingDisabled", "scaling is disabled since the replica count of the target is zero")
		o.settle(&w, current, nil)
	case current > w.hpa.Spec.MaxReplicas:
		o.reason = "Current number of replicas above Spec.MaxReplicas"
		o.settle(&w, w.hpa.Spec.MaxReplicas, nil)
	case current < least:
		o.reason = "Current number of replicas below Spec.MinReplicas"
		o.settle(&w, least, nil)
	default:
		o.follow(&w, least)
	}
	return o
}

// sleeps says whether it was the autoscaler that took the last pod: then it wakes the target
// again. What a user has scaled to nothing stays so.
func (w *world) sleeps(least int32) bool {
	return least == 0 && slices.ContainsFunc(w.hpa.Status.Conditions, func(c autoscalingv2.HorizontalPodAutoscalerCondition) bool {
		return c.Type == autoscalingv2.ScaledToZero && c.Status == corev1.ConditionTrue
	})
}

// follow sizes after the metrics.
func (o *outcome) follow(w *world, least int32) {
	best, statuses, ok := o.weigh(w)
	if !ok {
		o.status.CurrentMetrics = statuses
		o.warn("FailedComputeMetricsReplicas", "%v", o.problem)
		return
	}
	wanted := best.replicas
	switch current := w.scale.Spec.Replicas; {
	case wanted > current:
		o.reason = best.name + " above target"
	case wanted < current:
		o.reason = "All metrics below target"
	}
	o.settle(w, w.limit(o, wanted, least), statuses)
}

// settle plans the size, and the status for when it is written.
func (o *outcome) settle(w *world, size int32, statuses []autoscalingv2.MetricStatus) {
	o.status.DesiredReplicas, o.status.CurrentMetrics = size, statuses
	if size != w.scale.Spec.Replicas {
		o.resize = &size
	}
}

// weigh asks each metric; the largest size wins. Where some cannot be told, the
// others may still make it larger, but not smaller.
func (o *outcome) weigh(w *world) (best proposal, statuses []autoscalingv2.MetricStatus, ok bool) {
	if !o.selects(w) {
		return proposal{}, nil, false
	}
	metrics := w.hpa.Spec.Metrics
	var first *proposal
	invalid := 0
	for i, spec := range metrics {
		p := w.propose(spec, w.readings[i])
		if p.err != nil {
			o.warn(p.reason, "%v", p.told)
			if invalid++; first == nil {
				first = &p
			}
			statuses = append(statuses, autoscalingv2.MetricStatus{})
			continue
		}
		statuses = append(statuses, p.status)
		if best.replicas == 0 || p.replicas > best.replicas {
			best = p
		}
	}
	if first != nil {
		o.problem = fmt.Errorf("invalid metrics (%d invalid out of %d), first error is: %w", invalid, len(metrics), first.err)
	}
	if invalid >= len(metrics) || invalid > 0 && best.replicas < w.scale.Spec.Replicas {
		if first != nil {
			o.condition(w, autoscalingv2.ScalingActive, corev1.ConditionFalse, first.reason, "the HPA was unable to compute the replica count: %v", first.told)
		}
		return proposal{}, statuses, false
	}
	o.condition(w, autoscalingv2.ScalingActive, corev1.ConditionTrue, "ValidMetricFound", "the HPA was able to successfully calculate a replica count from %s", best.name)
	return best, statuses, true
}

// selects says whether it is clear which pods the autoscaler is about.
func (o *outcome) selects(w *world) bool {
	switch {
	case w.scale.Status.Selector == "":
		o.problem = errSelectorRequired
		o.warn("SelectorRequired", "%v", o.problem)
		o.condition(w, autoscalingv2.ScalingActive, corev1.ConditionFalse, "InvalidSelector", "the HPA target's scale is missing a selector")
	case w.selectorErr != nil:
		o.problem = fmt.Errorf("couldn't convert selector into a corresponding internal selector object: %w", w.selectorErr)
		o.warn("InvalidSelector", "%v", o.problem)
		o.condition(w, autoscalingv2.ScalingActive, corev1.ConditionFalse, "InvalidSelector", "%v", o.problem)
	case len(w.rivals) > 1:
		o.problem = fmt.Errorf("pods by selector %v are controlled by multiple HPAs: %v", w.scale.Status.Selector, w.rivals)
		o.warn("AmbiguousSelector", "%v", o.problem)
		o.condition(w, autoscalingv2.ScalingActive, corev1.ConditionFalse, "AmbiguousSelector", "%v", o.problem)
	default:
		return true
	}
	return false
}

// resized completes the outcome of writing the size: err is why it failed.
func (o *outcome) resized(w *world, err error) {
	if err != nil {
		o.events = append(o.events, event{corev1.EventTypeWarning, "FailedRescale", fmt.Sprintf("New size: %d; reason: %s; error: %v", *o.resize, o.reason, err)})
		o.condition(w, autoscalingv2.AbleToScale, corev1.ConditionFalse, "FailedUpdateScale", "the HPA controller was unable to update the target scale: %v", err)
		o.status.DesiredReplicas, o.status.CurrentMetrics = w.hpa.Status.DesiredReplicas, w.hpa.Status.CurrentMetrics
		return
	}
	o.condition(w, autoscalingv2.AbleToScale, corev1.ConditionTrue, "SucceededRescale", "the HPA controller was able to update the target scale to %d", *o.resize)
	o.events = append(o.events, event{corev1.EventTypeNormal, "SuccessfulRescale", fmt.Sprintf("New size: %d; reason: %s", *o.resize, o.reason)})
	o.status.LastScaleTime = &metav1.Time{Time: w.now}
	if w.scale.Spec.Replicas > 0 && *o.resize == 0 {
		o.condition(w, autoscalingv2.ScaledToZero, corev1.ConditionTrue, "ScaledToZero", "the HPA controller scaled the workload to zero")
	} else {
		o.condition(w, autoscalingv2.ScaledToZero, corev1.ConditionFalse, "NotScaledToZero", "the HPA controller did not scale the workload to zero")
	}
	if w.hpa.Spec.Behavior != nil {
		o.memory.remember(w.scale.Spec.Replicas, *o.resize, w.now)
	}
}

// changed says whether the status has to be written.
func (o *outcome) changed(w *world) bool {
	return !equality.Semantic.DeepEqual(&w.hpa.Status, o.status)
}
