// Package ephemeralvolume makes the claims of volumes that live as long as their pod
// (spec.volumes[].ephemeral). They are the pod's own, and are collected with it.
//
// plan.go decides and is pure; controller.go does. Only controllers imports this package.
package ephemeralvolume

import (
	"context"
	"errors"
	"log/slog"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"kontiki/controllers/loop"
)

// Name is the controller's name in logs; Component is the source of its events.
const (
	Name      = "ephemeralvolume"
	Component = "ephemeral_volume"
	workers   = 2
)

// Controller makes claims of pods.
type Controller struct {
	client kubernetes.Interface
	events record.EventRecorder
	loop   *loop.Loop
	pods   corelisters.PodLister
	claims corelisters.PersistentVolumeClaimLister

	podInformer, claimInformer cache.SharedIndexInformer
}

// New makes the controller on shared informers.
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger) *Controller {
	pods, claims := shared.Core().V1().Pods(), shared.Core().V1().PersistentVolumeClaims()
	return &Controller{
		client: client, events: events, loop: loop.New(Name, log), pods: pods.Lister(), claims: claims.Lister(),
		podInformer: pods.Informer(), claimInformer: claims.Informer(),
	}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	err := loop.On(c.loop, c.podInformer, func(before, after *corev1.Pod) {
		if before == nil && slices.ContainsFunc(after.Spec.Volumes, func(v corev1.Volume) bool { return v.Ephemeral != nil }) {
			c.loop.AddObject(after)
		}
	})
	if err != nil {
		return err
	}
	err = loop.On(c.loop, c.claimInformer, func(before, after *corev1.PersistentVolumeClaim) {
		if after != nil {
			return
		}
		if owner := metav1.GetControllerOfNoCopy(before); owner != nil && owner.Kind == "Pod" {
			c.loop.Add(before.Namespace + "/" + owner.Name)
		}
	})
	if err != nil {
		return err
	}
	return c.loop.Run(ctx, workers, c.sync)
}

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	pod, err := c.pods.Pods(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	todo := plan(pod, func(name string) *corev1.PersistentVolumeClaim {
		claim, err := c.claims.PersistentVolumeClaims(namespace).Get(name)
		if err != nil {
			return nil // an informer's lister knows no other error than not found
		}
		return claim
	})
	var failures []error
	for _, why := range todo.refusals {
		c.events.Event(pod, corev1.EventTypeWarning, "FailedBinding", why)
		failures = append(failures, errors.New(why)) // the other one may go
	}
	for _, claim := range todo.create {
		_, err := c.client.CoreV1().PersistentVolumeClaims(namespace).Create(ctx, claim, metav1.CreateOptions{})
		if err != nil {
			c.events.Eventf(pod, corev1.EventTypeWarning, "FailedBinding", "create PVC %s: %v", claim.Name, err)
			failures = append(failures, err)
		}
	}
	return errors.Join(failures...)
}
