// Package endpointslice keeps, for each Service with a selector, the EndpointSlices
// that say where its pods are and which of them serve.
//
// plan.go decides and is pure; controller.go does. Several workers run, a Service
// is handled by one at a time. Only controllers imports this package.
package endpointslice

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"kontiki/controllers/loop"
	"kontiki/controllers/pending"
	"kontiki/controllers/podview"
	"kontiki/controllers/slicecontrol"
	"kontiki/controllers/triggertime"
)

// Name is the controller's name in logs; Component is the source of its events.
const (
	Name      = "endpointslice"
	Component = "endpoint-slice-controller"
	workers   = 5
)

// Controller keeps EndpointSlices.
type Controller struct {
	client kubernetes.Interface
	events record.EventRecorder
	now    func() time.Time

	serviceInformer, podInformer, sliceInformer, nodeInformer cache.SharedIndexInformer

	services corelisters.ServiceLister
	pods     corelisters.PodLister
	nodes    corelisters.NodeLister
	slices   discoverylisters.EndpointSliceLister
	writes   *pending.Writes
	triggers *triggertime.Tracker
	loop     *loop.Loop
}

// New makes the controller on shared informers (the pod informer with podview.Indexers).
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger, now func() time.Time) *Controller {
	core, all := shared.Core().V1(), shared.Discovery().V1().EndpointSlices()
	return &Controller{
		client: client, events: events, now: now,
		serviceInformer: core.Services().Informer(), podInformer: core.Pods().Informer(), sliceInformer: all.Informer(), nodeInformer: core.Nodes().Informer(),
		services: core.Services().Lister(), pods: core.Pods().Lister(), nodes: core.Nodes().Lister(), slices: all.Lister(),
		writes:   pending.New(),
		triggers: triggertime.New(),
		loop:     loop.New(Name, log),
	}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	err := errors.Join(
		c.loop.OnObject(c.serviceInformer),
		loop.On(c.loop, c.podInformer, c.podChanged),
		slicecontrol.OnSlices(c.loop, c.sliceInformer, managedBy),
		loop.On(c.loop, c.nodeInformer, c.nodeChanged),
	)
	if err != nil {
		return err
	}
	return c.loop.Run(ctx, workers, c.sync)
}

func (c *Controller) podChanged(before, after *corev1.Pod) {
	if before != nil && after != nil && sameToServices(before, after) {
		return
	}
	for _, pod := range []*corev1.Pod{before, after} {
		if pod == nil {
			continue
		}
		services, err := c.services.Services(pod.Namespace).List(labels.Everything())
		if err != nil {
			return
		}
		for _, service := range podview.SelectedBy(services, pod) {
			c.loop.AddObject(service)
		}
	}
}

// nodeChanged looks again at what has pods on a node whose zone is another, or is known now.
func (c *Controller) nodeChanged(before, after *corev1.Node) {
	if after == nil || podview.Zone(before) == podview.Zone(after) {
		return
	}
	pods, err := podview.Indexed(c.podInformer.GetIndexer(), podview.ByNode, after.Name)
	if err != nil {
		return // an index that is there does not fail
	}
	for _, pod := range pods {
		c.podChanged(nil, pod)
	}
}

func sameToServices(before, after *corev1.Pod) bool {
	return before.UID == after.UID && before.Spec.NodeName == after.Spec.NodeName &&
		(before.DeletionTimestamp == nil) == (after.DeletionTimestamp == nil) &&
		podview.Ready(before) == podview.Ready(after) && podview.Finished(before) == podview.Finished(after) &&
		before.Status.PodIP == after.Status.PodIP &&
		equality.Semantic.DeepEqual(before.Status.PodIPs, after.Status.PodIPs) &&
		equality.Semantic.DeepEqual(before.Labels, after.Labels)
}

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	service, err := c.services.Services(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.writes.Forget(key) // the garbage collector removes the slices
		c.triggers.Forget(namespace, name)
		return nil
	}
	if err != nil {
		return err
	}
	if service.DeletionTimestamp != nil || len(service.Spec.Selector) == 0 || service.Spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	nothing := func(types.UID) bool { return false }
	if !c.writes.Settled(key, c.sliceInformer.GetIndexer(), nothing, c.now()) {
		return nil // the event of the slice that is not seen yet comes back here
	}
	pods, err := c.pods.Pods(namespace).List(labels.SelectorFromValidatedSet(service.Spec.Selector))
	if err != nil {
		return err
	}
	existing, err := slicecontrol.Of(c.slices, namespace, name, managedBy)
	if err != nil {
		return err
	}
	changed := c.triggers.Changed(service, pods)
	todo := plan(service, pods, existing, podview.ZoneOf(c.nodes))
	for _, slice := range slices.Concat(todo.Create, todo.Update) {
		triggertime.Annotate(&slice.ObjectMeta, changed)
	}
	err = todo.Do(ctx, c.client, func(made *discoveryv1.EndpointSlice) { c.writes.Created(key, made, c.now()) })
	if err != nil && !loop.Expected(err) {
		c.events.Eventf(service, corev1.EventTypeWarning, "FailedToUpdateEndpointSlices",
			"Error updating Endpoint Slices for Service %s/%s: %v", namespace, name, err)
	}
	return err
}
