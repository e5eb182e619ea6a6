package hpa

import (
	"errors"
	"fmt"
	"math"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"kontiki/controllers/podview"
)

// proposal is one metric's opinion.
type proposal struct {
	replicas int32
	name     string // of the metric, as reasons tell it
	status   autoscalingv2.MetricStatus

	reason string // of the condition and the event, when it failed
	told   error  // what these say
	err    error  // the same, in the words of the sum of all metrics
}

func failed(reason string, told error, format string, args ...any) proposal {
	return proposal{reason: reason, told: told, err: fmt.Errorf(format+": %w", append(args, told)...)}
}

// propose works out one metric's opinion from what was read of it.
func (w *world) propose(spec autoscalingv2.MetricSpec, got reading) proposal {
	switch {
	case spec.Type == autoscalingv2.ResourceMetricSourceType && spec.Resource != nil:
		return w.ofResource(spec.Resource.Name, "", spec.Resource.Target, got)
	case spec.Type == autoscalingv2.ContainerResourceMetricSourceType && spec.ContainerResource != nil:
		return w.ofResource(spec.ContainerResource.Name, spec.ContainerResource.Container, spec.ContainerResource.Target, got)
	case spec.Type == autoscalingv2.PodsMetricSourceType && spec.Pods != nil:
		return w.ofPods(spec.Pods, got)
	case spec.Type == autoscalingv2.ObjectMetricSourceType && spec.Object != nil:
		return w.ofObject(spec.Object, got)
	case spec.Type == autoscalingv2.ExternalMetricSourceType && spec.External != nil:
		return w.ofExternal(spec.External, got)
	}
	err := fmt.Errorf("unknown metric source type %q", spec.Type)
	return proposal{reason: "InvalidMetricSourceType", told: err, err: err}
}

func (w *world) ofResource(name corev1.ResourceName, container string, target autoscalingv2.MetricTarget, got reading) proposal {
	reason, outer, kind := "FailedGetResourceMetric", fmt.Sprintf("failed to get %s resource metric value", name), fmt.Sprintf("%s resource", name)
	if container != "" {
		reason, outer, kind = "FailedGetContainerResourceMetric", fmt.Sprintf("failed to get %s container metric value", name), fmt.Sprintf("%s container resource", name)
	}
	fail := func(err error) proposal { return failed(reason, err, "%s", outer) }
	if target.AverageValue == nil && target.AverageUtilization == nil {
		if container != "" {
			return fail(errors.New("invalid container resource metric source: neither an average utilization target nor an average value target was set"))
		}
		return fail(errors.New("invalid resource metric source: neither an average utilization target nor an average value target was set"))
	}
	word := "utilization"
	if target.AverageValue != nil {
		word = "usage"
	}
	wrap := func(err error) proposal { return fail(fmt.Errorf("failed to get %s %s: %w", name, word, err)) }
	if got.err != nil {
		return wrap(fmt.Errorf("unable to get metrics for resource %s: %w", name, got.err))
	}
	if len(w.pods) == 0 {
		return wrap(errNoPods)
	}
	current := autoscalingv2.MetricValueStatus{}
	sorted := sortPods(w.pods, got.pods, name, w.now)
	var p proposal
	var mean int64
	var err error
	if target.AverageValue != nil {
		value := target.AverageValue.MilliValue()
		p.name = kind
		p.replicas, _, mean, err = sorted.size(w.scale.Spec.Replicas, w.within(), againstValue(value), func(string) int64 { return value })
	} else {
		asked, missing := requests(w.pods, name, container)
		if missing != nil {
			return wrap(missing)
		}
		var percent int32
		p.name = kind + " utilization (percentage of request)"
		p.replicas, percent, mean, err = sorted.size(w.scale.Spec.Replicas, w.within(), againstRequests(asked, *target.AverageUtilization),
			func(pod string) int64 { return asked[pod] * fullShare(*target.AverageUtilization) / 100 })
		current.AverageUtilization = &percent
	}
	if err != nil {
		return wrap(err)
	}
	current.AverageValue = resource.NewMilliQuantity(mean, resource.DecimalSI)
	if container != "" {
		p.status = autoscalingv2.MetricStatus{Type: autoscalingv2.ContainerResourceMetricSourceType,
			ContainerResource: &autoscalingv2.ContainerResourceMetricStatus{Name: name, Container: container, Current: current}}
	} else {
		p.status = autoscalingv2.MetricStatus{Type: autoscalingv2.ResourceMetricSourceType,
			Resource: &autoscalingv2.ResourceMetricStatus{Name: name, Current: current}}
	}
	return p
}

// fullShare is what a pod without a sample is held to use on the way down: all it
// requests, or the target where that is more.
func fullShare(target int32) int64 { return max(100, int64(target)) }

func (w *world) ofPods(source *autoscalingv2.PodsMetricSource, got reading) proposal {
	fail := func(err error) proposal {
		return failed("FailedGetPodsMetric", err, "failed to get pods metric value")
	}
	if got.err != nil {
		return fail(fmt.Errorf("unable to get metric %s: %w", source.Metric.Name, got.err))
	}
	if len(w.pods) == 0 {
		return fail(errNoPods)
	}
	target := source.Target.AverageValue.MilliValue()
	replicas, _, mean, err := sortPods(w.pods, got.pods, "", w.now).size(w.scale.Spec.Replicas, w.within(), againstValue(target), func(string) int64 { return target })
	if err != nil {
		return fail(err)
	}
	return proposal{replicas: replicas, name: "pods metric " + source.Metric.Name, status: autoscalingv2.MetricStatus{
		Type: autoscalingv2.PodsMetricSourceType,
		Pods: &autoscalingv2.PodsMetricStatus{Metric: source.Metric, Current: average(mean)},
	}}
}

func (w *world) ofObject(source *autoscalingv2.ObjectMetricSource, got reading) proposal {
	object, metric := source.DescribedObject, source.Metric
	fail := func(err error) proposal {
		return failed("FailedGetObjectMetric", err, "failed to get object metric value")
	}
	status := func(current autoscalingv2.MetricValueStatus) autoscalingv2.MetricStatus {
		return autoscalingv2.MetricStatus{Type: autoscalingv2.ObjectMetricSourceType,
			Object: &autoscalingv2.ObjectMetricStatus{DescribedObject: object, Metric: metric, Current: current}}
	}
	unread := func() error {
		return fmt.Errorf("unable to get metric %s: %v on %s %s/%w", metric.Name, object.Kind, w.hpa.Namespace, object.Name, got.err) // sic, as upstream
	}
	switch {
	case source.Target.Type == autoscalingv2.ValueMetricType && source.Target.Value != nil:
		if got.err != nil {
			return fail(unread())
		}
		replicas, err := w.bySum(float64(got.value) / float64(source.Target.Value.MilliValue()))
		if err != nil {
			return fail(err)
		}
		return proposal{replicas: replicas, name: fmt.Sprintf("%s metric %s", object.Kind, metric.Name),
			status: status(autoscalingv2.MetricValueStatus{Value: resource.NewMilliQuantity(got.value, resource.DecimalSI)})}
	case source.Target.Type == autoscalingv2.AverageValueMetricType && source.Target.AverageValue != nil:
		if got.err != nil {
			return fail(fmt.Errorf("failed to get %s object metric: %w", metric.Name, unread()))
		}
		replicas, mean := w.byMean(got.value, source.Target.AverageValue.MilliValue())
		return proposal{replicas: replicas, name: fmt.Sprintf("external metric %s(%+v)", metric.Name, metric.Selector), status: status(average(mean))}
	}
	return fail(errors.New("invalid object metric source: neither a value target nor an average value target was set"))
}

func (w *world) ofExternal(source *autoscalingv2.ExternalMetricSource, got reading) proposal {
	metric := source.Metric
	fail := func(err error) proposal {
		return failed("FailedGetExternalMetric", err, "failed to get %s external metric value", metric.Name)
	}
	status := func(current autoscalingv2.MetricValueStatus) autoscalingv2.MetricStatus {
		return autoscalingv2.MetricStatus{Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricStatus{Metric: metric, Current: current}}
	}
	name := fmt.Sprintf("external metric %s(%+v)", metric.Name, metric.Selector)
	unread := func() error {
		return fmt.Errorf("unable to get external metric %s/%s/%+v: %w", w.hpa.Namespace, metric.Name, metric.Selector, got.err)
	}
	switch {
	case source.Target.AverageValue != nil:
		if got.err != nil {
			return fail(fmt.Errorf("failed to get %s external metric: %w", metric.Name, unread()))
		}
		replicas, mean := w.byMean(got.value, source.Target.AverageValue.MilliValue())
		return proposal{replicas: replicas, name: name, status: status(average(mean))}
	case source.Target.Value != nil:
		if got.err != nil {
			return fail(fmt.Errorf("failed to get external metric %s: %w", metric.Name, unread()))
		}
		replicas, err := w.bySum(float64(got.value) / float64(source.Target.Value.MilliValue()))
		if err != nil {
			return fail(fmt.Errorf("failed to get external metric %s: %w", metric.Name, err))
		}
		return proposal{replicas: replicas, name: name, status: status(autoscalingv2.MetricValueStatus{Value: resource.NewMilliQuantity(got.value, resource.DecimalSI)})}
	}
	return fail(errors.New("invalid external metric source: neither a value target nor an average value target was set"))
}

// bySum sizes by a value for all pods together. From nothing it goes by the ratio
// alone.
func (w *world) bySum(of float64) (int32, error) {
	current := w.scale.Spec.Replicas
	switch {
	case current == 0:
		return int32(math.Ceil(of)), nil
	case w.within().holds(of):
		return current, nil
	case len(w.pods) == 0:
		return 0, fmt.Errorf("unable to calculate ready pods: %w", errNoPods)
	}
	ready := 0
	for _, pod := range w.pods {
		if pod.Status.Phase == corev1.PodRunning && podview.Ready(pod) {
			ready++
		}
	}
	return int32(math.Ceil(of * float64(ready))), nil
}

// byMean sizes by a value per pod.
func (w *world) byMean(value, target int64) (replicas int32, mean int64) {
	replicas = w.scale.Status.Replicas
	of := float64(value) / (float64(target) * float64(replicas))
	if replicas == 0 || !w.within().holds(of) {
		replicas = int32(math.Ceil(float64(value) / float64(target)))
	}
	if w.scale.Status.Replicas > 0 {
		mean = int64(math.Ceil(float64(value) / float64(w.scale.Status.Replicas)))
	}
	return replicas, mean
}

func average(value int64) autoscalingv2.MetricValueStatus {
	return autoscalingv2.MetricValueStatus{AverageValue: resource.NewMilliQuantity(value, resource.DecimalSI)}
}

// within is the tolerance the autoscaler asks for, a tenth where it does not.
func (w *world) within() tolerance {
	t := tolerance{0.1, 0.1}
	if b := w.hpa.Spec.Behavior; b != nil {
		if b.ScaleDown != nil && b.ScaleDown.Tolerance != nil {
			t.down = b.ScaleDown.Tolerance.AsApproximateFloat64()
		}
		if b.ScaleUp != nil && b.ScaleUp.Tolerance != nil {
			t.up = b.ScaleUp.Tolerance.AsApproximateFloat64()
		}
	}
	return t
}
