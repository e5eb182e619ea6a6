// Package volumeprotection keeps claims that pods use and volumes that are bound from
// going away: it sets finalizers on them, and takes them off again when a deleted one is in use no more.
//
// plan.go decides and is pure; controller.go does. Only controllers imports this package.
package volumeprotection

import (
	"context"
	"log/slog"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"kontiki/controllers/loop"
)

// Name is the controller's name in logs.
const (
	Name    = "volumeprotection"
	workers = 2
	// volumeKey begins the keys of volumes; those of claims are namespace/name.
	volumeKey = "volume:"
)

// Controller protects claims and volumes.
type Controller struct {
	client  kubernetes.Interface
	loop    *loop.Loop
	claims  corelisters.PersistentVolumeClaimLister
	volumes corelisters.PersistentVolumeLister
	pods    corelisters.PodLister

	claimInformer, volumeInformer, podInformer cache.SharedIndexInformer
}

// New makes the controller on shared informers.
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, log *slog.Logger) *Controller {
	core := shared.Core().V1()
	return &Controller{
		client: client, loop: loop.New(Name, log),
		claims: core.PersistentVolumeClaims().Lister(), volumes: core.PersistentVolumes().Lister(), pods: core.Pods().Lister(),
		claimInformer: core.PersistentVolumeClaims().Informer(), volumeInformer: core.PersistentVolumes().Informer(), podInformer: core.Pods().Informer(),
	}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	err := loop.On(c.loop, c.claimInformer, func(_, after *corev1.PersistentVolumeClaim) {
		if after != nil {
			c.loop.AddObject(after)
		}
	})
	if err != nil {
		return err
	}
	err = loop.On(c.loop, c.volumeInformer, func(_, after *corev1.PersistentVolume) {
		if after != nil {
			c.loop.Add(volumeKey + after.Name)
		}
	})
	if err != nil {
		return err
	}
	if err := loop.On(c.loop, c.podInformer, c.podChanged); err != nil {
		return err
	}
	return c.loop.Run(ctx, workers, c.sync)
}

// podChanged looks at the claims of a pod that uses them no more.
func (c *Controller) podChanged(before, after *corev1.Pod) {
	pod := before
	if after != nil {
		pod = after
	}
	if after != nil && after.Spec.NodeName != "" && !shutDown(after) {
		return // it uses them still
	}
	for i := range pod.Spec.Volumes {
		if name := claimOf(pod, &pod.Spec.Volumes[i]); name != "" {
			c.loop.Add(pod.Namespace + "/" + name)
		}
	}
}

func (c *Controller) sync(ctx context.Context, key string) error {
	if name, ok := strings.CutPrefix(key, volumeKey); ok {
		v, err := c.volumes.Get(name)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		return c.writeVolume(ctx, v, planVolume(v))
	}
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	claim, err := c.claims.PersistentVolumeClaims(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	pods, err := c.pods.Pods(namespace).List(labels.Everything())
	if err != nil {
		return err
	}
	todo := planClaim(claim, pods)
	if todo == remove { // for good: the API itself is asked
		list, err := c.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		pods = pods[:0:0]
		for i := range list.Items {
			pods = append(pods, &list.Items[i])
		}
		todo = planClaim(claim, pods)
	}
	return c.writeClaim(ctx, claim, todo)
}

func (c *Controller) writeClaim(ctx context.Context, claim *corev1.PersistentVolumeClaim, todo change) error {
	if todo == nothing {
		return nil
	}
	update := claim.DeepCopy()
	update.Finalizers = changed(update.Finalizers, claimFinalizer, todo)
	_, err := c.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, update, metav1.UpdateOptions{})
	return loop.IgnoreNotFound(err)
}

func (c *Controller) writeVolume(ctx context.Context, v *corev1.PersistentVolume, todo change) error {
	if todo == nothing {
		return nil
	}
	update := v.DeepCopy()
	update.Finalizers = changed(update.Finalizers, volumeFinalizer, todo)
	_, err := c.client.CoreV1().PersistentVolumes().Update(ctx, update, metav1.UpdateOptions{})
	return loop.IgnoreNotFound(err)
}

func changed(finalizers []string, name string, todo change) []string {
	if todo == add {
		return append(finalizers, name)
	}
	return slices.DeleteFunc(finalizers, func(f string) bool { return f == name })
}
