// Package slicemirror copies the Endpoints that somebody keeps by hand, for a
// Service without a selector, into EndpointSlices, which is what nodes go by.
//
// plan.go decides and is pure; controller.go does. Endpoints are handled by one
// worker at a time. Only controllers imports this package.
package slicemirror

import (
	"context"
	"errors"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"kontiki/controllers/loop"
	"kontiki/controllers/podview"
	"kontiki/controllers/slicecontrol"
)

// Name is the controller's name in logs; Component is the source of its events.
const (
	Name      = "slicemirror"
	Component = "endpoint-slice-mirroring-controller"
	workers   = 2
)

// Controller mirrors Endpoints.
type Controller struct {
	client kubernetes.Interface
	events record.EventRecorder

	serviceInformer, endpointInformer, sliceInformer, nodeInformer cache.SharedIndexInformer

	services  corelisters.ServiceLister
	endpoints corelisters.EndpointsLister //nolint:staticcheck // the kind is deprecated, and served
	nodes     corelisters.NodeLister
	slices    discoverylisters.EndpointSliceLister
	loop      *loop.Loop
}

// New makes the controller on shared informers.
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger) *Controller {
	core, slices := shared.Core().V1(), shared.Discovery().V1().EndpointSlices()
	return &Controller{
		client: client, events: events,
		serviceInformer: core.Services().Informer(), endpointInformer: core.Endpoints().Informer(), sliceInformer: slices.Informer(), nodeInformer: core.Nodes().Informer(),
		services: core.Services().Lister(), endpoints: core.Endpoints().Lister(), nodes: core.Nodes().Lister(), slices: slices.Lister(),
		loop: loop.New(Name, log),
	}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	err := errors.Join(
		c.loop.OnObject(c.endpointInformer),
		c.loop.OnObject(c.serviceInformer),
		slicecontrol.OnSlices(c.loop, c.sliceInformer, managedBy),
		loop.On(c.loop, c.nodeInformer, c.nodeChanged),
	)
	if err != nil {
		return err
	}
	return c.loop.Run(ctx, workers, c.sync)
}

// nodeChanged looks again at all Endpoints, of which few name a node, when a node's zone is
// another, or is known now.
func (c *Controller) nodeChanged(before, after *corev1.Node) {
	if after == nil || podview.Zone(before) == podview.Zone(after) {
		return
	}
	for _, key := range c.endpointInformer.GetStore().ListKeys() {
		c.loop.Add(key)
	}
}

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	endpoints, err := c.endpoints.Endpoints(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		endpoints, err = nil, nil
	}
	if err != nil {
		return err
	}
	service, err := c.services.Services(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		service, err = nil, nil
	}
	if err != nil {
		return err
	}
	existing, err := slicecontrol.Of(c.slices, namespace, name, managedBy)
	if err != nil {
		return err
	}
	if mirrored(endpoints, service) {
		if n := tooMany(endpoints); n > 0 {
			c.events.Eventf(endpoints, corev1.EventTypeWarning, "TooManyAddressesToMirror",
				"A max of %d addresses can be mirrored to EndpointSlices per Endpoints subset. %d addresses were skipped", maxEndpoints, n)
		}
	}
	todo := plan(endpoints, service, existing, podview.ZoneOf(c.nodes))
	err = todo.Do(ctx, c.client, func(*discoveryv1.EndpointSlice) {})
	if err != nil && endpoints != nil && !loop.Expected(err) {
		c.events.Eventf(endpoints, corev1.EventTypeWarning, "FailedToUpdateEndpointSlices", "Error mirroring Endpoints %s/%s: %v", namespace, name, err)
	}
	return err
}
