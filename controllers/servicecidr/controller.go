// Package servicecidr says which ServiceCIDRs addresses of Services can come from, and
// keeps one that is deleted until no Service has an address in it that is in no other.
//
// plan.go decides and is pure; controller.go does, with one worker: of two that contain each
// other's addresses, one goes after the other. Only controllers imports this package.
package servicecidr

import (
	"context"
	"errors"
	"log/slog"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"kontiki/controllers/loop"
)

// Name is the controller's name in logs; Component is the source of its events.
const (
	Name      = "servicecidr"
	Component = "service-cidr-controller"
)

// Controller keeps ServiceCIDRs.
type Controller struct {
	client kubernetes.Interface
	events record.EventRecorder
	loop   *loop.Loop

	cidrs     networkinglisters.ServiceCIDRLister
	addresses networkinglisters.IPAddressLister
	services  corelisters.ServiceLister

	cidrInformer, addressInformer, serviceInformer cache.SharedIndexInformer
}

// New makes the controller on shared informers.
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger) *Controller {
	networking, services := shared.Networking().V1(), shared.Core().V1().Services()
	return &Controller{
		client: client, events: events, loop: loop.New(Name, log),
		cidrs: networking.ServiceCIDRs().Lister(), addresses: networking.IPAddresses().Lister(), services: services.Lister(),
		cidrInformer: networking.ServiceCIDRs().Informer(), addressInformer: networking.IPAddresses().Informer(), serviceInformer: services.Informer(),
	}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	err := errors.Join(
		loop.On(c.loop, c.cidrInformer, func(before, after *networkingv1.ServiceCIDR) {
			if after == nil {
				after = before
			}
			c.loop.Add(after.Name)
			c.deleted(func(cidr *networkingv1.ServiceCIDR) bool { return overlap(cidr, after) })
		}),
		loop.On(c.loop, c.addressInformer, func(_, after *networkingv1.IPAddress) {
			if after == nil {
				c.deleted(func(*networkingv1.ServiceCIDR) bool { return true })
			}
		}),
		loop.On(c.loop, c.serviceInformer, func(before, after *corev1.Service) {
			if before != nil && (after == nil || !slices.Equal(before.Spec.ClusterIPs, after.Spec.ClusterIPs)) {
				c.deleted(func(*networkingv1.ServiceCIDR) bool { return true })
			}
		}),
	)
	if err != nil {
		return err
	}
	return c.loop.Run(ctx, 1, c.sync)
}

// deleted looks again at the ServiceCIDRs that wait to go.
func (c *Controller) deleted(which func(*networkingv1.ServiceCIDR) bool) {
	all, err := c.cidrs.List(labels.Everything())
	if err != nil {
		return // a lister of a cache has none
	}
	for _, cidr := range all {
		if cidr.DeletionTimestamp != nil && which(cidr) {
			c.loop.Add(cidr.Name)
		}
	}
}

func (c *Controller) sync(ctx context.Context, key string) error {
	w, err := c.cached(key)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	todo := plan(w)
	if todo.Finalizer == remove { // for good: the API itself is asked
		if w, err = c.asked(ctx, key); err != nil {
			return loop.IgnoreNotFound(err)
		}
		todo = plan(w)
	}
	return c.do(ctx, w.CIDR, todo)
}

// cached is what the caches know.
func (c *Controller) cached(key string) (world, error) {
	var w world
	var err error
	if w.CIDR, err = c.cidrs.Get(key); err != nil {
		return w, err
	}
	if w.Others, err = c.cidrs.List(labels.Everything()); err != nil {
		return w, err
	}
	w.Others = slices.DeleteFunc(w.Others, func(o *networkingv1.ServiceCIDR) bool { return o.Name == key })
	if w.Addresses, err = c.addresses.List(labels.Everything()); err != nil {
		return w, err
	}
	w.Services, err = c.services.List(labels.Everything())
	return w, err
}

// asked is what the API says now. The ServiceCIDRs are read first: what was given from a
// deleted one was given before.
func (c *Controller) asked(ctx context.Context, key string) (world, error) {
	var w world
	cidrs, err := c.client.NetworkingV1().ServiceCIDRs().List(ctx, metav1.ListOptions{})
	if err != nil {
		return w, err
	}
	for i := range cidrs.Items {
		if cidr := &cidrs.Items[i]; cidr.Name == key {
			w.CIDR = cidr
		} else {
			w.Others = append(w.Others, cidr)
		}
	}
	if w.CIDR == nil {
		return w, apierrors.NewNotFound(networkingv1.Resource("servicecidrs"), key)
	}
	addresses, err := c.client.NetworkingV1().IPAddresses().List(ctx, metav1.ListOptions{})
	if err != nil {
		return w, err
	}
	for i := range addresses.Items {
		w.Addresses = append(w.Addresses, &addresses.Items[i])
	}
	services, err := c.client.CoreV1().Services(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		return w, err
	}
	for i := range services.Items {
		w.Services = append(w.Services, &services.Items[i])
	}
	return w, nil
}

func (c *Controller) do(ctx context.Context, cidr *networkingv1.ServiceCIDR, todo actions) error {
	client := c.client.NetworkingV1().ServiceCIDRs()
	if todo.Finalizer != "" {
		changed := cidr.DeepCopy()
		changed.Finalizers = slices.DeleteFunc(changed.Finalizers, func(f string) bool { return f == finalizer })
		if todo.Finalizer == add {
			changed.Finalizers = append(changed.Finalizers, finalizer)
		}
		written, err := client.Update(ctx, changed, metav1.UpdateOptions{})
		if err != nil {
			return loop.IgnoreNotFound(err)
		}
		cidr = written
	}
	if todo.Condition == nil {
		return nil
	}
	changed := cidr.DeepCopy()
	meta.SetStatusCondition(&changed.Status.Conditions, *todo.Condition)
	_, err := client.UpdateStatus(ctx, changed, metav1.UpdateOptions{})
	if err != nil && !loop.Expected(err) && todo.Condition.Status == metav1.ConditionTrue {
		c.events.Event(cidr, corev1.EventTypeWarning, "KubernetesServiceCIDRError", "The ServiceCIDR Status can not be set to Ready=True")
	}
	return loop.IgnoreNotFound(err)
}
