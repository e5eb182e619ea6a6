package hpa

import (
	"context"
	"errors"
	"fmt"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	resourcemetrics "k8s.io/metrics/pkg/apis/metrics/v1beta1"
	resourceclient "k8s.io/metrics/pkg/client/clientset/versioned/typed/metrics/v1beta1"
	"k8s.io/metrics/pkg/client/custom_metrics"
	"k8s.io/metrics/pkg/client/external_metrics"
)

// Metrics are the clients of the three metrics APIs.
type Metrics struct {
	Resource resourceclient.PodMetricsesGetter
	Custom   custom_metrics.CustomMetricsClient
	External external_metrics.ExternalMetricsClient
	Mapper   meta.RESTMapper // finds the kind an Object metric describes
	// Forget drops what Custom remembers of which versions are served; nil if it
	// remembers nothing.
	Forget func()
}

// custom notes that the custom metrics API failed: it may be served otherwise now.
func (m Metrics) custom(err error) reading {
	if m.Forget != nil {
		m.Forget()
	}
	return reading{err: fmt.Errorf("unable to fetch metrics from custom metrics API: %w", err)}
}

// sample is what one pod used, in thousandths.
type sample struct {
	value  int64
	at     time.Time
	window time.Duration
}

// defaultWindow stands for samples of custom metrics, which name none.
const defaultWindow = time.Minute

// reading is what a metrics API said of one metric of an autoscaler.
type reading struct {
	pods  map[string]sample // by pod, for Resource, ContainerResource and Pods
	value int64             // for Object, and summed up for External
	err   error
}

// read asks for one metric of an autoscaler in a namespace.
func (m Metrics) read(ctx context.Context, namespace string, pods labels.Selector, spec autoscalingv2.MetricSpec) reading {
	switch {
	case spec.Resource != nil && spec.Type == autoscalingv2.ResourceMetricSourceType:
		return m.resource(ctx, namespace, pods, spec.Resource.Name, "")
	case spec.ContainerResource != nil && spec.Type == autoscalingv2.ContainerResourceMetricSourceType:
		return m.resource(ctx, namespace, pods, spec.ContainerResource.Name, spec.ContainerResource.Container)
	case spec.Pods != nil && spec.Type == autoscalingv2.PodsMetricSourceType:
		return m.ofPods(namespace, pods, spec.Pods.Metric)
	case spec.Object != nil && spec.Type == autoscalingv2.ObjectMetricSourceType:
		return m.ofObject(namespace, spec.Object)
	case spec.External != nil && spec.Type == autoscalingv2.ExternalMetricSourceType:
		return m.external(namespace, spec.External.Metric)
	}
	return reading{} // the planner refuses the type
}

func (m Metrics) resource(ctx context.Context, namespace string, pods labels.Selector, name corev1.ResourceName, container string) reading {
	list, err := m.Resource.PodMetricses(namespace).List(ctx, metav1.ListOptions{LabelSelector: pods.String()})
	if err != nil {
		return reading{err: fmt.Errorf("unable to fetch metrics from resource metrics API: %w", err)}
	}
	if len(list.Items) == 0 {
		return reading{err: errors.New("no metrics returned from resource metrics API")}
	}
	samples := map[string]sample{}
	for _, pod := range list.Items {
		value, complete, err := used(pod, name, container)
		if err != nil {
			return reading{err: fmt.Errorf("failed to get container metrics: %w", err)}
		}
		if complete {
			samples[pod.Name] = sample{value, pod.Timestamp.Time, pod.Window.Duration}
		}
	}
	return reading{pods: samples}
}

// used is what a pod, or one container of it, used of a resource; it is not complete
// while a container's usage is not known.
func used(pod resourcemetrics.PodMetrics, name corev1.ResourceName, container string) (sum int64, complete bool, err error) {
	found := false
	for _, c := range pod.Containers {
		if container != "" && c.Name != container {
			continue
		}
		found = true
		usage, ok := c.Usage[name]
		if !ok {
			return 0, false, nil
		}
		sum += usage.MilliValue()
	}
	if container != "" && !found {
		return 0, false, fmt.Errorf("container %s not present in metrics for pod %s/%s", container, pod.Namespace, pod.Name)
	}
	return sum, found, nil
}

func (m Metrics) ofPods(namespace string, pods labels.Selector, metric autoscalingv2.MetricIdentifier) reading {
	of, err := metav1.LabelSelectorAsSelector(metric.Selector)
	if err != nil {
		return reading{err: err}
	}
	if metric.Selector == nil {
		of = labels.Everything()
	}
	list, err := m.Custom.NamespacedMetrics(namespace).GetForObjects(schema.GroupKind{Kind: "Pod"}, pods, metric.Name, of)
	if err != nil {
		return m.custom(err)
	}
	if len(list.Items) == 0 {
		return reading{err: errors.New("no metrics returned from custom metrics API")}
	}
	samples := map[string]sample{}
	for _, item := range list.Items {
		window := defaultWindow
		if item.WindowSeconds != nil {
			window = time.Duration(*item.WindowSeconds) * time.Second
		}
		samples[item.DescribedObject.Name] = sample{item.Value.MilliValue(), item.Timestamp.Time, window}
	}
	return reading{pods: samples}
}

func (m Metrics) ofObject(namespace string, source *autoscalingv2.ObjectMetricSource) reading {
	object := source.DescribedObject
	of := labels.Everything()
	if source.Metric.Selector != nil {
		var err error
		if of, err = metav1.LabelSelectorAsSelector(source.Metric.Selector); err != nil {
			return m.custom(err)
		}
	}
	gv, err := schema.ParseGroupVersion(object.APIVersion)
	if err != nil {
		return m.custom(err)
	}
	kind := schema.GroupKind{Group: gv.Group, Kind: object.Kind}
	client := m.Custom.NamespacedMetrics(namespace)
	mapping, err := m.Mapper.RESTMapping(kind)
	if err == nil && mapping.Scope.Name() == meta.RESTScopeNameRoot {
		client = m.Custom.RootScopedMetrics()
	}
	value, err := client.GetForObject(kind, object.Name, source.Metric.Name, of)
	if err != nil {
		return m.custom(err)
	}
	return reading{value: value.Value.MilliValue()}
}

func (m Metrics) external(namespace string, metric autoscalingv2.MetricIdentifier) reading {
	of := labels.Everything()
	if metric.Selector != nil {
		var err error
		if of, err = metav1.LabelSelectorAsSelector(metric.Selector); err != nil {
			return reading{err: err}
		}
	}
	list, err := m.External.NamespacedMetrics(namespace).List(metric.Name, of)
	if err != nil {
		return reading{err: fmt.Errorf("unable to fetch metrics from external metrics API: %w", err)}
	}
	if len(list.Items) == 0 {
		return reading{err: errors.New("no metrics returned from external metrics API")}
	}
	sum := int64(0)
	for _, item := range list.Items {
		sum += item.Value.MilliValue()
	}
	return reading{value: sum}
}
