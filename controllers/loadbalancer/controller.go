// Package loadbalancer writes into Services of type LoadBalancer the addresses of
// the nodes, at which every node answers (--load-balancer=nodes).
//
// plan.go decides over all Services at once and is pure; one worker does. Only
// controllers imports this package.
package loadbalancer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"kontiki/controllers/loop"
)

// Name is the controller's name in logs; Component is the source of its events.
const (
	Name      = "loadbalancer"
	Component = "service-controller"
)

// all is the only key: who has which port is decided over all Services at once.
const all = "services"

// Controller writes the status of Services of type LoadBalancer.
type Controller struct {
	client   kubernetes.Interface
	events   record.EventRecorder
	reserved []int32

	serviceInformer, nodeInformer, sliceInformer cache.SharedIndexInformer

	services corelisters.ServiceLister
	nodes    corelisters.NodeLister
	slices   discoverylisters.EndpointSliceLister
	loop     *loop.Loop

	refused map[string]string // of the one worker: what was said of whom
}

// New makes the controller on shared informers. Reserved are ports of the nodes
// that no Service gets.
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger, reserved []int32) *Controller {
	core, slices := shared.Core().V1(), shared.Discovery().V1().EndpointSlices()
	return &Controller{
		client: client, events: events, reserved: reserved,
		serviceInformer: core.Services().Informer(), nodeInformer: core.Nodes().Informer(), sliceInformer: slices.Informer(),
		services: core.Services().Lister(), nodes: core.Nodes().Lister(), slices: slices.Lister(),
		loop: loop.New(Name, log), refused: map[string]string{},
	}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	err := errors.Join(
		loop.On(c.loop, c.serviceInformer, func(before, after *corev1.Service) {
			if before != nil && ours(before) || after != nil && ours(after) {
				c.loop.Add(all)
			}
		}),
		loop.On(c.loop, c.nodeInformer, func(before, after *corev1.Node) {
			if before == nil || after == nil || ready(before) != ready(after) ||
				!equality.Semantic.DeepEqual(before.Status.Addresses, after.Status.Addresses) || !equality.Semantic.DeepEqual(before.Labels, after.Labels) {
				c.loop.Add(all)
			}
		}),
		loop.On(c.loop, c.sliceInformer, func(before, after *discoveryv1.EndpointSlice) {
			if c.matters(before) || c.matters(after) {
				c.loop.Add(all)
			}
		}),
	)
	if err != nil {
		return err
	}
	return c.loop.Run(ctx, 1, c.sync)
}

// matters says whether the addresses of a Service depend on where its endpoints are.
func (c *Controller) matters(slice *discoveryv1.EndpointSlice) bool {
	if slice == nil {
		return false
	}
	s, err := c.services.Services(slice.Namespace).Get(slice.Labels[discoveryv1.LabelServiceName])
	return err == nil && ours(s) && s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

func (c *Controller) sync(ctx context.Context, _ string) error {
	services, err := c.services.List(labels.Everything())
	if err != nil {
		return err
	}
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return err
	}
	slicesOf := map[string][]*discoveryv1.EndpointSlice{}
	for _, s := range services {
		if !ours(s) {
			continue
		}
		list, err := c.slices.EndpointSlices(s.Namespace).List(labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: s.Name}))
		if err != nil {
			return err
		}
		slicesOf[key(s)] = list
	}
	decided := plan(services, nodes, slicesOf, c.reserved)
	var failures []error
	for _, s := range services {
		d, ok := decided[key(s)]
		if !ok {
			continue
		}
		if d.Refused != "" && c.refused[key(s)] != d.Refused {
			c.events.Event(s, corev1.EventTypeWarning, "LoadBalancerPortTaken", d.Refused)
		}
		c.refused[key(s)] = d.Refused
		failures = append(failures, c.write(ctx, s, d.Ingress))
	}
	for k := range c.refused {
		if _, ok := decided[k]; !ok {
			delete(c.refused, k)
		}
	}
	return errors.Join(failures...)
}

func (c *Controller) write(ctx context.Context, s *corev1.Service, want []corev1.LoadBalancerIngress) error {
	if equality.Semantic.DeepEqual(s.Status.LoadBalancer.Ingress, want) {
		return nil
	}
	changed := s.DeepCopy()
	changed.Status.LoadBalancer.Ingress = want
	_, err := c.client.CoreV1().Services(s.Namespace).UpdateStatus(ctx, changed, metav1.UpdateOptions{})
	if err == nil || apierrors.IsNotFound(err) {
		return nil
	}
	return fmt.Errorf("write the addresses of Service %s: %w", key(s), err)
}
