// Package metrics is the API group metrics.k8s.io: what nodes and pods use now, as
// `kubectl top` and autoscalers ask. Nothing in it is stored: a request asks the
// agents of the nodes that it is about.
//
// Everything here is called by any number of goroutines. Only apiserver imports it.
package metrics

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	typedcore "k8s.io/client-go/kubernetes/typed/core/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"kontiki/apiserver/kind"
)

// Config is where the group's answers come from.
type Config struct {
	Agents Agents // may be nil: nothing is known then
	Core   typedcore.CoreV1Interface
}

// Group describes the group.
func Group(cfg Config) kind.Group {
	m := &meter{agents: cfg.Agents, seen: map[string]reading{}}
	return kind.Group{
		Name:        metricsv1beta1.GroupName,
		Versions:    []string{"v1beta1"},
		AddToScheme: metricsv1beta1.AddToScheme,
		Kinds: map[string][]kind.Definition{"v1beta1": {
			kind.Virtual{Resource: "nodes", Storage: &nodeMetrics{m, cfg.Core}},
			kind.Virtual{Resource: "pods", Storage: &podMetrics{m, cfg.Core}},
		}},
	}
}

// fromReplica reads what this server knows; it is as fresh as the numbers are.
var fromReplica = metav1.GetOptions{ResourceVersion: "0"}

func listOptions(o *metainternalversion.ListOptions) metav1.ListOptions {
	out := metav1.ListOptions{ResourceVersion: "0"}
	if o != nil && o.LabelSelector != nil {
		out.LabelSelector = o.LabelSelector.String()
	}
	if o != nil && o.FieldSelector != nil {
		out.FieldSelector = o.FieldSelector.String()
	}
	return out
}

// nodeMetrics serves nodes.
type nodeMetrics struct {
	meter *meter
	core  typedcore.CoreV1Interface
}

var _ interface {
	rest.Getter
	rest.Lister
	rest.Scoper
	rest.KindProvider
	rest.SingularNameProvider
} = &nodeMetrics{}

// New implements rest.Storage.
func (*nodeMetrics) New() runtime.Object { return &metricsv1beta1.NodeMetrics{} }

// NewList implements rest.Lister.
func (*nodeMetrics) NewList() runtime.Object { return &metricsv1beta1.NodeMetricsList{} }

// Destroy implements rest.Storage.
func (*nodeMetrics) Destroy() {}

// Kind implements rest.KindProvider.
func (*nodeMetrics) Kind() string { return "NodeMetrics" }

// GetSingularName implements rest.SingularNameProvider.
func (*nodeMetrics) GetSingularName() string { return "node" }

// NamespaceScoped implements rest.Scoper.
func (*nodeMetrics) NamespaceScoped() bool { return false }

// Get implements rest.Getter.
func (r *nodeMetrics) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	node, err := r.core.Nodes().Get(ctx, name, fromReplica)
	if err != nil {
		return nil, err
	}
	got := r.meter.read(ctx, []string{name})
	out, ok := nodeUsage(node, got[name])
	if !ok {
		return nil, apierrors.NewNotFound(metricsv1beta1.Resource("nodes"), name)
	}
	return &out, nil
}

// List implements rest.Lister.
func (r *nodeMetrics) List(ctx context.Context, options *metainternalversion.ListOptions) (runtime.Object, error) {
	nodes, err := r.core.Nodes().List(ctx, listOptions(options))
	if err != nil {
		return nil, err
	}
	var names []string
	for i := range nodes.Items {
		names = append(names, nodes.Items[i].Name)
	}
	got := r.meter.read(ctx, names)
	list := &metricsv1beta1.NodeMetricsList{Items: []metricsv1beta1.NodeMetrics{}}
	for i := range nodes.Items {
		if m, ok := nodeUsage(&nodes.Items[i], got[nodes.Items[i].Name]); ok {
			list.Items = append(list.Items, m)
		}
	}
	return list, nil
}

// ConvertToTable implements rest.TableConvertor.
func (*nodeMetrics) ConvertToTable(_ context.Context, obj, options runtime.Object) (*metav1.Table, error) {
	return table(obj, options, func(o runtime.Object) (string, corev1.ResourceList, metav1.Duration) {
		m := o.(*metricsv1beta1.NodeMetrics)
		return m.Name, m.Usage, m.Window
	})
}

// podMetrics serves pods.
type podMetrics struct {
	meter *meter
	core  typedcore.CoreV1Interface
}

var _ interface {
	rest.Getter
	rest.Lister
	rest.Scoper
	rest.KindProvider
	rest.SingularNameProvider
} = &podMetrics{}

// New implements rest.Storage.
func (*podMetrics) New() runtime.Object { return &metricsv1beta1.PodMetrics{} }

// NewList implements rest.Lister.
func (*podMetrics) NewList() runtime.Object { return &metricsv1beta1.PodMetricsList{} }

// Destroy implements rest.Storage.
func (*podMetrics) Destroy() {}

// Kind implements rest.KindProvider.
func (*podMetrics) Kind() string { return "PodMetrics" }

// GetSingularName implements rest.SingularNameProvider.
func (*podMetrics) GetSingularName() string { return "pod" }

// NamespaceScoped implements rest.Scoper.
func (*podMetrics) NamespaceScoped() bool { return true }

// Get implements rest.Getter.
func (r *podMetrics) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	pod, err := r.core.Pods(request.NamespaceValue(ctx)).Get(ctx, name, fromReplica)
	if err != nil {
		return nil, err
	}
	got := r.meter.read(ctx, []string{pod.Spec.NodeName})
	out, ok := podUsage(pod, got[pod.Spec.NodeName])
	if !ok {
		return nil, apierrors.NewNotFound(metricsv1beta1.Resource("pods"), name)
	}
	return &out, nil
}

// List implements rest.Lister.
func (r *podMetrics) List(ctx context.Context, options *metainternalversion.ListOptions) (runtime.Object, error) {
	pods, err := r.core.Pods(request.NamespaceValue(ctx)).List(ctx, listOptions(options))
	if err != nil {
		return nil, err
	}
	var names []string
	for i := range pods.Items {
		names = append(names, pods.Items[i].Spec.NodeName)
	}
	got := r.meter.read(ctx, names)
	list := &metricsv1beta1.PodMetricsList{Items: []metricsv1beta1.PodMetrics{}}
	for i := range pods.Items {
		if m, ok := podUsage(&pods.Items[i], got[pods.Items[i].Spec.NodeName]); ok {
			list.Items = append(list.Items, m)
		}
	}
	return list, nil
}

// ConvertToTable implements rest.TableConvertor.
func (*podMetrics) ConvertToTable(_ context.Context, obj, options runtime.Object) (*metav1.Table, error) {
	return table(obj, options, func(o runtime.Object) (string, corev1.ResourceList, metav1.Duration) {
		m := o.(*metricsv1beta1.PodMetrics)
		sum := corev1.ResourceList{}
		for _, c := range m.Containers {
			add(sum, c.Usage)
		}
		return m.Name, sum, m.Window
	})
}

// table prints as metrics-server does.
func table(obj, options runtime.Object, row func(runtime.Object) (string, corev1.ResourceList, metav1.Duration)) (*metav1.Table, error) {
	t := &metav1.Table{}
	each := func(o runtime.Object) error {
		name, usage, window := row(o)
		t.Rows = append(t.Rows, metav1.TableRow{
			Cells:  []any{name, usage.Cpu().String(), usage.Memory().String(), window.Duration.String()},
			Object: runtime.RawExtension{Object: o},
		})
		return nil
	}
	var err error
	if meta.IsListType(obj) {
		err = meta.EachListItem(obj, each)
	} else {
		err = each(obj)
	}
	if o, ok := options.(*metav1.TableOptions); !ok || !o.NoHeaders {
		t.ColumnDefinitions = []metav1.TableColumnDefinition{kind.NameColumn, kind.Column("cpu", ""), kind.Column("memory", ""), kind.Column("Window", "")}
	}
	return t, err
}
