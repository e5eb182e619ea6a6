// Package namespace empties namespaces that are being deleted, pods first, finds
// every kind by discovery, and lets go of the namespace when nothing is left.
//
// plan.go words the outcome and is pure; controller.go does. Several workers run, a
// namespace is handled by one at a time. Only controllers imports this package.
package namespace

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"kontiki/controllers/loop"
)

// Name is the controller's name in logs.
const (
	Name    = "namespace"
	workers = 4

	// nextLook is when a namespace that still holds something is looked at again,
	// as long as it does not hold pods with more grace than that.
	nextLook = time.Second
	longest  = 15 * time.Second
)

// Kinds answers which kinds the API serves: client-go's discovery client.
type Kinds interface {
	ServerPreferredNamespacedResourcesWithContext(context.Context) ([]*metav1.APIResourceList, error)
}

// Controller empties and finalizes namespaces.
type Controller struct {
	client   kubernetes.Interface
	metadata metadata.Interface
	kinds    Kinds
	log      *slog.Logger
	now      func() time.Time

	informer   cache.SharedIndexInformer
	namespaces corelisters.NamespaceLister
	loop       *loop.Loop
}

// New makes the controller on shared informers.
func New(client kubernetes.Interface, meta metadata.Interface, kinds Kinds, shared informers.SharedInformerFactory, log *slog.Logger, now func() time.Time) *Controller {
	namespaces := shared.Core().V1().Namespaces()
	return &Controller{
		client: client, metadata: meta, kinds: kinds, log: log.With("controller", Name), now: now,
		informer: namespaces.Informer(), namespaces: namespaces.Lister(),
		loop: loop.New(Name, log),
	}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	err := loop.On(c.loop, c.informer, func(_, after *corev1.Namespace) {
		if after != nil && after.DeletionTimestamp != nil {
			c.loop.Add(after.Name)
		}
	})
	if err != nil {
		return err
	}
	return c.loop.Run(ctx, workers, c.sync)
}

func (c *Controller) sync(ctx context.Context, name string) error {
	ns, err := c.namespaces.Get(name)
	if apierrors.IsNotFound(err) || err == nil && ns.DeletionTimestamp == nil {
		return nil
	}
	if err != nil {
		return err
	}
	if !slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes) {
		return nil // emptied; others hold it
	}
	resources, discovered := c.deletable(ctx)
	o := c.empty(ctx, name, resources)
	o.discovery, o.parse = discovered.discovery, discovered.parse
	if ns, err = c.writeStatus(ctx, ns, o); err != nil {
		return err
	}
	if o.done() {
		return c.finalize(ctx, ns)
	}
	c.loop.AddAfter(name, min(longest, max(nextLook, c.now().Sub(ns.DeletionTimestamp.Time)/4)))
	return errors.Join(o.failures()...)
}

// deletable finds every namespaced kind that can be listed and deleted.
func (c *Controller) deletable(ctx context.Context) ([]schema.GroupVersionResource, outcome) {
	var o outcome
	lists, err := c.kinds.ServerPreferredNamespacedResourcesWithContext(ctx)
	if err != nil {
		if groups, ok := discovery.GroupDiscoveryFailedErrorGroups(err); ok {
			for gv, e := range groups {
				o.discovery = append(o.discovery, discoveryFailure{gv, e})
			}
		} else {
			o.discovery = append(o.discovery, err)
		}
	}
	able := discovery.FilteredBy(discovery.SupportsAllVerbs{Verbs: []string{"list", "delete"}}, lists)
	var resources []schema.GroupVersionResource
	for _, list := range able {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			o.parse = append(o.parse, err)
			continue
		}
		for _, r := range list.APIResources {
			if r.Name == "events" && gv.Group != corev1.GroupName {
				continue // the same objects as core's
			}
			resources = append(resources, gv.WithResource(r.Name))
		}
	}
	return resources, o
}

type discoveryFailure struct {
	gv  schema.GroupVersion
	err error
}

func (d discoveryFailure) Error() string { return d.gv.String() + ": " + d.err.Error() }
func (d discoveryFailure) Unwrap() error { return d.err }

// empty deletes everything: pods, and only when none is left the rest.
func (c *Controller) empty(ctx context.Context, namespace string, resources []schema.GroupVersionResource) outcome {
	var o outcome
	if slices.Contains(resources, podsResource) {
		pods := c.emptyOf(ctx, namespace, podsResource)
		o.kinds = append(o.kinds, pods)
		if pods.remaining > 0 || pods.failure != nil {
			return o
		}
	}
	for _, resource := range resources {
		if resource != podsResource {
			o.kinds = append(o.kinds, c.emptyOf(ctx, namespace, resource))
		}
	}
	return o
}

// emptyOf deletes all objects of a kind and says what is left.
func (c *Controller) emptyOf(ctx context.Context, namespace string, resource schema.GroupVersionResource) found {
	f := found{resource: resource, finalizers: map[string]int{}}
	client := c.metadata.Resource(resource).Namespace(namespace)
	list, err := client.List(ctx, metav1.ListOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
		return f
	}
	if err != nil {
		f.failure = err
		return f
	}
	for _, object := range list.Items {
		if object.DeletionTimestamp != nil {
			continue
		}
		options := metav1.NewPreconditionDeleteOptions(string(object.UID))
		options.PropagationPolicy = ptr.To(metav1.DeletePropagationBackground)
		if err := client.Delete(ctx, object.Name, *options); err != nil && !apierrors.IsNotFound(err) {
			f.failure = err
		}
	}
	if len(list.Items) == 0 {
		return f
	}
	if list, err = client.List(ctx, metav1.ListOptions{}); err != nil {
		f.failure = err
		return f
	}
	f.remaining = len(list.Items)
	for _, object := range list.Items {
		for _, finalizer := range object.Finalizers {
			f.finalizers[finalizer]++
		}
	}
	return f
}

func (c *Controller) writeStatus(ctx context.Context, ns *corev1.Namespace, o outcome) (*corev1.Namespace, error) {
	conditions := conditionsOf(ns.Status.Conditions, o, metav1.NewTime(c.now()))
	if ns.Status.Phase == corev1.NamespaceTerminating && equality.Semantic.DeepEqual(conditions, ns.Status.Conditions) {
		return ns, nil
	}
	update := ns.DeepCopy()
	update.Status.Phase = corev1.NamespaceTerminating
	update.Status.Conditions = conditions
	return c.client.CoreV1().Namespaces().UpdateStatus(ctx, update, metav1.UpdateOptions{})
}

func (c *Controller) finalize(ctx context.Context, ns *corev1.Namespace) error {
	update := ns.DeepCopy()
	update.Spec.Finalizers = slices.DeleteFunc(update.Spec.Finalizers, func(f corev1.FinalizerName) bool { return f == corev1.FinalizerKubernetes })
	_, err := c.client.CoreV1().Namespaces().Finalize(ctx, update, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
