// Package ipaddress repairs what users have changed about IPAddresses of Services: one
// that a Service lacks is made, one that refers to a Service which does not have it is removed.
//
// plan.go decides and is pure; controller.go does. Nothing is done on what caches say: they are
// filled one by one, and a Service and its IPAddress are written in one transaction. Only controllers imports this package.
package ipaddress

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
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
	Name      = "ipaddress"
	Component = "ipallocator-repair-controller"
	workers   = 2
	// addressKey begins the keys of IPAddresses; those of Services are namespace/name.
	addressKey = "address:"
)

// Controller repairs IPAddresses.
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
		loop.On(c.loop, c.serviceInformer, func(before, after *corev1.Service) {
			if after != nil {
				c.loop.AddObject(after)
			}
			if before != nil { // what it leaves, its IPAddress has gone with, unless somebody made that again
				for _, ip := range ipsOf(before) {
					if after == nil || !slices.Contains(ipsOf(after), ip) {
						c.loop.Add(addressKey + ip)
					}
				}
			}
		}),
		loop.On(c.loop, c.addressInformer, func(before, after *networkingv1.IPAddress) {
			for _, a := range []*networkingv1.IPAddress{before, after} {
				if a == nil {
					continue
				}
				c.loop.Add(addressKey + a.Name)
				c.holdersOf(a)
			}
			if after == nil && before.DeletionTimestamp != nil { // somebody kept it, and repairs waited
				c.thoseWith(before.Name)
			}
		}),
		// Nothing is said of an address while its ServiceCIDR is not known.
		loop.On(c.loop, c.cidrInformer, func(before, after *networkingv1.ServiceCIDR) {
			if before == nil || after == nil {
				c.everyService()
			}
		}),
	)
	if err != nil {
		return err
	}
	return c.loop.Run(ctx, workers, c.sync)
}

// holdersOf looks again at the Service that an IPAddress refers to.
func (c *Controller) holdersOf(a *networkingv1.IPAddress) {
	if ref := a.Spec.ParentRef; ofService(ref) {
		c.loop.Add(ref.Namespace + "/" + ref.Name)
	}
}

// thoseWith looks again at Services with an address, whoever its IPAddress referred to.
func (c *Controller) thoseWith(ip string) {
	all, err := c.services.List(labels.Everything())
	if err != nil {
		return // a lister of a cache has none
	}
	for _, s := range all {
		if slices.Contains(ipsOf(s), ip) {
			c.loop.AddObject(s)
		}
	}
}

func (c *Controller) everyService() {
	all, err := c.services.List(labels.Everything())
	if err != nil {
		return // a lister of a cache has none
	}
	for _, s := range all {
		c.loop.AddObject(s)
	}
}

func (c *Controller) sync(ctx context.Context, key string) error {
	if name, ok := strings.CutPrefix(key, addressKey); ok {
		return c.syncAddress(ctx, name)
	}
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	return c.syncService(ctx, namespace, name)
}

func (c *Controller) syncService(ctx context.Context, namespace, name string) error {
	s, err := c.services.Services(namespace).Get(name)
	if err != nil {
		return loop.IgnoreNotFound(err)
	}
	w := world{Service: s}
	if w.CIDRs, err = c.cidrs.List(labels.Everything()); err != nil {
		return err
	}
	for _, ip := range ipsOf(s) {
		if a, err := c.addresses.Get(ip); err == nil {
			w.Addresses = append(w.Addresses, a)
		}
	}
	if len(planService(w)) == 0 {
		return nil
	}
	w, err = c.asked(ctx, namespace, name)
	if err != nil {
		return loop.IgnoreNotFound(err)
	}
	var failures []error
	for _, r := range planService(w) {
		failures = append(failures, c.repair(ctx, w, r))
	}
	return errors.Join(failures...)
}

// asked is what the API says now. The Service is read at the beginning and at the end: if
// it was not changed meanwhile, what its IPAddresses lack was missing in between.
func (c *Controller) asked(ctx context.Context, namespace, name string) (world, error) {
	var w world
	read := func() (*corev1.Service, error) {
		return c.client.CoreV1().Services(namespace).Get(ctx, name, metav1.GetOptions{})
	}
	s, err := read()
	if err != nil {
		return w, err
	}
	cidrs, err := c.client.NetworkingV1().ServiceCIDRs().List(ctx, metav1.ListOptions{})
	if err != nil {
		return w, err
	}
	for i := range cidrs.Items {
		w.CIDRs = append(w.CIDRs, &cidrs.Items[i])
	}
	for _, ip := range ipsOf(s) {
		a, err := c.client.NetworkingV1().IPAddresses().Get(ctx, ip, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return w, err
		}
		w.Addresses = append(w.Addresses, a)
		if ref := a.Spec.ParentRef; ofService(ref) && (ref.Namespace != namespace || ref.Name != name) {
			other, err := c.client.CoreV1().Services(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
			if err == nil {
				w.Services = append(w.Services, other)
			} else if !apierrors.IsNotFound(err) {
				return w, err
			}
		}
	}
	if w.Service, err = read(); err != nil {
		return w, err
	}
	if w.Service.UID != s.UID || w.Service.ResourceVersion != s.ResourceVersion {
		return w, apierrors.NewConflict(corev1.Resource("services"), name, errors.New("it was changed while its IPAddresses were read"))
	}
	return w, nil
}

func (c *Controller) repair(ctx context.Context, w world, r repair) error {
	if r.Reason != "" {
		c.events.Event(w.Service, corev1.EventTypeWarning, r.Reason, r.Message)
	}
	ip, err := netip.ParseAddr(r.IP)
	if err != nil {
		return nil // told
	}
	if r.Remove {
		for _, a := range w.Addresses {
			if a.Name == ip.String() {
				if err := c.remove(ctx, a); err != nil {
					return err
				}
			}
		}
	}
	if !r.Create {
		return nil
	}
	_, err = c.client.NetworkingV1().IPAddresses().Create(ctx, &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{Name: ip.String(), Labels: map[string]string{
			networkingv1.LabelIPAddressFamily: string(familyOf(ip)),
			networkingv1.LabelManagedBy:       managedBy,
		}},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: w.Service.Namespace, Name: w.Service.Name}},
	}, metav1.CreateOptions{})
	return err
}

// syncAddress asks the API for the IPAddress first: its Service was written with it.
func (c *Controller) syncAddress(ctx context.Context, name string) error {
	a, err := c.addresses.Get(name)
	if err != nil {
		return loop.IgnoreNotFound(err)
	}
	if s, _ := c.parentOf(a, func(namespace, name string) (*corev1.Service, error) { return c.services.Services(namespace).Get(name) }); planIPAddress(a, s) == (repair{}) {
		return nil
	}
	if a, err = c.client.NetworkingV1().IPAddresses().Get(ctx, name, metav1.GetOptions{}); err != nil {
		return loop.IgnoreNotFound(err)
	}
	s, err := c.parentOf(a, func(namespace, name string) (*corev1.Service, error) {
		return c.client.CoreV1().Services(namespace).Get(ctx, name, metav1.GetOptions{})
	})
	if err != nil {
		return err
	}
	r := planIPAddress(a, s)
	if r == (repair{}) {
		return nil
	}
	c.events.Event(a, corev1.EventTypeWarning, r.Reason, r.Message)
	return c.remove(ctx, a)
}

// parentOf returns the Service that an IPAddress refers to; nil if there is none.
func (c *Controller) parentOf(a *networkingv1.IPAddress, get func(namespace, name string) (*corev1.Service, error)) (*corev1.Service, error) {
	if !ofService(a.Spec.ParentRef) {
		return nil, nil
	}
	s, err := get(a.Spec.ParentRef.Namespace, a.Spec.ParentRef.Name)
	if err != nil {
		return nil, loop.IgnoreNotFound(err)
	}
	return s, nil
}

func (c *Controller) remove(ctx context.Context, a *networkingv1.IPAddress) error {
	err := c.client.NetworkingV1().IPAddresses().Delete(ctx, a.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &a.UID, ResourceVersion: &a.ResourceVersion}})
	return loop.IgnoreNotFound(err)
}

// ipsOf are the names of the IPAddresses that a Service should have.
func ipsOf(s *corev1.Service) []string {
	var all []string
	for _, text := range s.Spec.ClusterIPs {
		if ip, err := netip.ParseAddr(text); err == nil {
			all = append(all, ip.String())
		}
	}
	return all
}
