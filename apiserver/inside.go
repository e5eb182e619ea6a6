package apiserver

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	typedapps "k8s.io/client-go/kubernetes/typed/apps/v1"
	typedbatch "k8s.io/client-go/kubernetes/typed/batch/v1"
	typedcore "k8s.io/client-go/kubernetes/typed/core/v1"
	typeddiscovery "k8s.io/client-go/kubernetes/typed/discovery/v1"
	"k8s.io/client-go/metadata"

	"kontiki/apiserver/storage"
)

// Clientset returns a client like kubernetes.NewForConfig(s.Client(u, opts...)), with
// ways of its own for what components do most: their watches of common kinds are tapped
// (storage.Tap), so that no object is encoded and decoded on its way to an informer, and
// bindings are made without HTTP (Server.bind). All other calls go as they do with
// Client.
//
// An object that such a watch tells of is shared with other watches, but for its own
// fields: who changes anything below them changes a copy.
func (s *Server) Clientset(u user.Info, opts ...ClientOption) (kubernetes.Interface, error) {
	client, err := kubernetes.NewForConfig(s.Client(u, opts...))
	if err != nil {
		return nil, err
	}
	return inside{client, s.caller(u, opts...)}, nil
}

// Metadata is Clientset for metadata.NewForConfig. What has no Go type here, as custom
// resources, is not tapped.
func (s *Server) Metadata(u user.Info, opts ...ClientOption) (metadata.Interface, error) {
	client, err := metadata.NewForConfig(s.Client(u, opts...))
	if err != nil {
		return nil, err
	}
	return insideMetadata{client}, nil
}

type opening func(context.Context, metav1.ListOptions) (watch.Interface, error)

// follow opens a watch whose objects do not come by its stream.
func follow(ctx context.Context, options metav1.ListOptions, open opening, shape func(runtime.Object) runtime.Object) (watch.Interface, error) {
	tap := &storage.Tap{Shape: shape}
	stream, err := open(storage.WithTap(ctx, tap), options)
	if err != nil {
		return nil, err
	}
	if w := tap.Watch(); w != nil {
		return tapped{w, stream}, nil
	}
	return stream, nil
}

// tapped is a watch whose stream keeps it open.
type tapped struct {
	watch.Interface
	stream watch.Interface
}

// Stop implements watch.Interface.
func (t tapped) Stop() {
	t.stream.Stop()
	t.Interface.Stop()
}

// followed is a watch of Ts. Of each its receiver gets the fields for himself.
func followed[T any, P interface {
	*T
	runtime.Object
}](ctx context.Context, options metav1.ListOptions, open opening) (watch.Interface, error) {
	return follow(ctx, options, open, func(obj runtime.Object) runtime.Object {
		object, ok := obj.(P)
		if !ok {
			return nil
		}
		own := *object
		return P(&own)
	})
}

// onlyMetadata is what the API shows of an object to who asks for its metadata alone.
func onlyMetadata(obj runtime.Object) runtime.Object {
	if _, untyped := obj.(runtime.Unstructured); untyped {
		return nil
	}
	object, ok := obj.(metav1.ObjectMetaAccessor)
	if !ok {
		return nil
	}
	meta, ok := object.GetObjectMeta().(*metav1.ObjectMeta)
	if !ok {
		return nil
	}
	partial := &metav1.PartialObjectMetadata{ObjectMeta: *meta}
	partial.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("PartialObjectMetadata"))
	return partial
}

type insideMetadata struct{ metadata.Interface }

func (i insideMetadata) Resource(gvr schema.GroupVersionResource) metadata.Getter {
	return metadataGetter{i.Interface.Resource(gvr)}
}

type metadataGetter struct{ metadata.Getter }

func (g metadataGetter) Namespace(name string) metadata.ResourceInterface {
	return metadataResource{g.Getter.Namespace(name)}
}

func (g metadataGetter) Watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	return follow(ctx, options, g.Getter.Watch, onlyMetadata)
}

type metadataResource struct{ metadata.ResourceInterface }

func (r metadataResource) Watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	return follow(ctx, options, r.ResourceInterface.Watch, onlyMetadata)
}

// inside is a clientset that knows shorter ways.
type inside struct {
	kubernetes.Interface
	caller *caller
}

func (i inside) CoreV1() typedcore.CoreV1Interface { return insideCore{i.Interface.CoreV1(), i.caller} }
func (i inside) AppsV1() typedapps.AppsV1Interface { return insideApps{i.Interface.AppsV1()} }
func (i inside) BatchV1() typedbatch.BatchV1Interface {
	return insideBatch{i.Interface.BatchV1()}
}
func (i inside) DiscoveryV1() typeddiscovery.DiscoveryV1Interface {
	return insideDiscovery{i.Interface.DiscoveryV1()}
}

type insideCore struct {
	typedcore.CoreV1Interface
	caller *caller
}

func (i insideCore) Pods(ns string) typedcore.PodInterface {
	return pods{i.CoreV1Interface.Pods(ns), ns, i.caller}
}
func (i insideCore) Nodes() typedcore.NodeInterface { return nodes{i.CoreV1Interface.Nodes()} }
func (i insideCore) Namespaces() typedcore.NamespaceInterface {
	return namespaces{i.CoreV1Interface.Namespaces()}
}
func (i insideCore) Services(ns string) typedcore.ServiceInterface {
	return services{i.CoreV1Interface.Services(ns)}
}
func (i insideCore) Endpoints(ns string) typedcore.EndpointsInterface {
	return endpoints{i.CoreV1Interface.Endpoints(ns)}
}
func (i insideCore) ConfigMaps(ns string) typedcore.ConfigMapInterface {
	return configMaps{i.CoreV1Interface.ConfigMaps(ns)}
}
func (i insideCore) ServiceAccounts(ns string) typedcore.ServiceAccountInterface {
	return serviceAccounts{i.CoreV1Interface.ServiceAccounts(ns)}
}
func (i insideCore) PersistentVolumeClaims(ns string) typedcore.PersistentVolumeClaimInterface {
	return claims{i.CoreV1Interface.PersistentVolumeClaims(ns)}
}

type pods struct {
	typedcore.PodInterface
	namespace string
	caller    *caller
}

func (p pods) Watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	return followed[corev1.Pod](ctx, options, p.PodInterface.Watch)
}

// Bind binds without HTTP where that is possible.
func (p pods) Bind(ctx context.Context, binding *corev1.Binding, options metav1.CreateOptions) error {
	if !p.caller.shortcut() || p.namespace == "" || binding.Name == "" || len(path.IsValidPathSegmentName(binding.Name)) > 0 {
		return p.PodInterface.Bind(ctx, binding, options)
	}
	return p.caller.bind(ctx, p.namespace, binding, options)
}

type nodes struct{ typedcore.NodeInterface }

func (n nodes) Watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	return followed[corev1.Node](ctx, options, n.NodeInterface.Watch)
}

type namespaces struct{ typedcore.NamespaceInterface }

func (n namespaces) Watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	return followed[corev1.Namespace](ctx, options, n.NamespaceInterface.Watch)
}

type services struct{ typedcore.ServiceInterface }

func (s services) Watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	return followed[corev1.Service](ctx, options, s.ServiceInterface.Watch)
}

type endpoints struct{ typedcore.EndpointsInterface }

func (e endpoints) Watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	return followed[corev1.Endpoints](ctx, options, e.EndpointsInterface.Watch)
}

type configMaps struct{ typedcore.ConfigMapInterface }

func (c configMaps) Watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	return followed[corev1.ConfigMap](ctx, options, c.ConfigMapInterface.Watch)
}

type serviceAccounts struct {
	typedcore.ServiceAccountInterface
}

func (a serviceAccounts) Watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	return followed[corev1.ServiceAccount](ctx, options, a.ServiceAccountInterface.Watch)
}

type claims struct {
	typedcore.PersistentVolumeClaimInterface
}

func (c claims) Watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	return followed[corev1.PersistentVolumeClaim](ctx, options, c.PersistentVolumeClaimInterface.Watch)
}

type insideApps struct{ typedapps.AppsV1Interface }

func (i insideApps) ReplicaSets(ns string) typedapps.ReplicaSetInterface {
	return replicaSets{i.AppsV1Interface.ReplicaSets(ns)}
}
func (i insideApps) Deployments(ns string) typedapps.DeploymentInterface {
	return deployments{i.AppsV1Interface.Deployments(ns)}
}
func (i insideApps) StatefulSets(ns string) typedapps.StatefulSetInterface {
	return statefulSets{i.AppsV1Interface.StatefulSets(ns)}
}
func (i insideApps) DaemonSets(ns string) typedapps.DaemonSetInterface {
	return daemonSets{i.AppsV1Interface.DaemonSets(ns)}
}

type replicaSets struct{ typedapps.ReplicaSetInterface }

func (r replicaSets) Watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	return followed[appsv1.ReplicaSet](ctx, options, r.ReplicaSetInterface.Watch)
}

type deployments struct{ typedapps.DeploymentInterface }

func (d deployments) Watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	return followed[appsv1.Deployment](ctx, options, d.DeploymentInterface.Watch)
}

type statefulSets struct{ typedapps.StatefulSetInterface }

func (s statefulSets) Watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	return followed[appsv1.StatefulSet](ctx, options, s.StatefulSetInterface.Watch)
}

type daemonSets struct{ typedapps.DaemonSetInterface }

func (d daemonSets) Watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	return followed[appsv1.DaemonSet](ctx, options, d.DaemonSetInterface.Watch)
}

type insideBatch struct{ typedbatch.BatchV1Interface }

func (i insideBatch) Jobs(ns string) typedbatch.JobInterface {
	return jobs{i.BatchV1Interface.Jobs(ns)}
}

type jobs struct{ typedbatch.JobInterface }

func (j jobs) Watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	return followed[batchv1.Job](ctx, options, j.JobInterface.Watch)
}

type insideDiscovery struct {
	typeddiscovery.DiscoveryV1Interface
}

func (i insideDiscovery) EndpointSlices(ns string) typeddiscovery.EndpointSliceInterface {
	return endpointSlices{i.DiscoveryV1Interface.EndpointSlices(ns)}
}

type endpointSlices struct {
	typeddiscovery.EndpointSliceInterface
}

func (e endpointSlices) Watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	return followed[discoveryv1.EndpointSlice](ctx, options, e.EndpointSliceInterface.Watch)
}
