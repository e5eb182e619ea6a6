// Package endpoints keeps, for each Service with a selector, the Endpoints object of
// its name: the older form of EndpointSlices, which some clients still read.
//
// plan.go decides and is pure; controller.go does. A Service is handled by one
// worker at a time. Only controllers imports this package.
package endpoints

import (
	"context"
	"errors"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"kontiki/controllers/loop"
	"kontiki/controllers/podview"
	"kontiki/controllers/triggertime"
)

// Name is the controller's name in logs; Component is the source of its events.
const (
	Name      = "endpoints"
	Component = "endpoint-controller"
	workers   = 3
)

// Controller keeps Endpoints.
type Controller struct {
	client kubernetes.Interface
	events record.EventRecorder

	serviceInformer, podInformer, endpointInformer cache.SharedIndexInformer

	services  corelisters.ServiceLister
	pods      corelisters.PodLister
	endpoints corelisters.EndpointsLister //nolint:staticcheck // the kind is deprecated, and served
	triggers  *triggertime.Tracker
	loop      *loop.Loop
}

// New makes the controller on shared informers.
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger) *Controller {
	core := shared.Core().V1()
	return &Controller{
		client: client, events: events,
		serviceInformer: core.Services().Informer(), podInformer: core.Pods().Informer(), endpointInformer: core.Endpoints().Informer(),
		services: core.Services().Lister(), pods: core.Pods().Lister(), endpoints: core.Endpoints().Lister(),
		triggers: triggertime.New(), loop: loop.New(Name, log),
	}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	err := errors.Join(
		c.loop.OnObject(c.serviceInformer),
		loop.On(c.loop, c.podInformer, c.podChanged),
		c.loop.OnObject(c.endpointInformer),
	)
	if err != nil {
		return err
	}
	return c.loop.Run(ctx, workers, c.sync)
}

func (c *Controller) podChanged(before, after *corev1.Pod) {
	for _, pod := range []*corev1.Pod{before, after} {
		if pod == nil {
			continue
		}
		services, err := c.services.Services(pod.Namespace).List(labels.Everything())
		if err != nil {
			return // a lister that reads a cache does not fail
		}
		for _, service := range podview.SelectedBy(services, pod) {
			c.loop.AddObject(service)
		}
	}
}

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	have, err := c.endpoints.Endpoints(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		have, err = nil, nil
	}
	if err != nil {
		return err
	}
	service, err := c.services.Services(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.triggers.Forget(namespace, name)
		return c.remove(ctx, have)
	}
	if err != nil {
		return err
	}
	if service.DeletionTimestamp != nil || len(service.Spec.Selector) == 0 || service.Spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	pods, err := c.pods.Pods(namespace).List(labels.SelectorFromValidatedSet(service.Spec.Selector))
	if err != nil {
		return err
	}
	changed := c.triggers.Changed(service, pods)
	next := plan(service, pods, have)
	if next == nil {
		return nil
	}
	triggertime.Annotate(&next.ObjectMeta, changed)
	if have == nil {
		_, err = c.client.CoreV1().Endpoints(namespace).Create(ctx, next, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil // its event brings the Service back
		}
		c.failed(service, err, "FailedToCreateEndpoint", "create")
		return err
	}
	_, err = c.client.CoreV1().Endpoints(namespace).Update(ctx, next, metav1.UpdateOptions{})
	c.failed(service, err, "FailedToUpdateEndpoint", "update")
	return err
}

func (c *Controller) failed(service *corev1.Service, err error, reason, what string) {
	if err != nil && !loop.Expected(err) {
		c.events.Eventf(service, corev1.EventTypeWarning, reason, "Failed to %s endpoint %v/%v: %v", what, service.Namespace, service.Name, err)
	}
}

// remove deletes the Endpoints of a Service that is gone, if they are of this
// controller: others' may be meant for a Service that is to come.
func (c *Controller) remove(ctx context.Context, have *corev1.Endpoints) error {
	if have == nil || have.Labels[managedByLabel] != managedBy {
		return nil
	}
	err := c.client.CoreV1().Endpoints(have.Namespace).Delete(ctx, have.Name, *metav1.NewPreconditionDeleteOptions(string(have.UID)))
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
