// Package volumebinder binds claims and volumes to each other: it finds the volume
// that fits a claim best or has one provisioned, keeps the phases of both, and
// releases volumes whose claims are gone.
//
// plan.go decides on claims, plan_volume.go on volumes; both are pure. controller.go
// does. Claims and volumes share one queue; writes carry the resourceVersion that
// was decided on, so two workers cannot give a volume away twice. Only controllers
// imports this package.
package volumebinder

import (
	"context"
	"log/slog"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	storage "k8s.io/component-helpers/storage/volume"

	"kontiki/controllers/loop"
)

// Name is the controller's name in logs; Component is the source of its events.
const (
	Name      = "volumebinder"
	Component = "persistentvolume-controller"
	workers   = 4
	// volumeKey begins the keys of volumes; those of claims are namespace/name.
	volumeKey = "volume:"
)

// Controller binds volumes.
type Controller struct {
	client  kubernetes.Interface
	events  record.EventRecorder
	loop    *loop.Loop
	claims  corelisters.PersistentVolumeClaimLister
	volumes corelisters.PersistentVolumeLister
	classes storagelisters.StorageClassLister
	pods    corelisters.PodLister

	claimInformer, volumeInformer, classInformer cache.SharedIndexInformer
}

// New makes the controller on shared informers.
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger) *Controller {
	claims, volumes, classes := shared.Core().V1().PersistentVolumeClaims(), shared.Core().V1().PersistentVolumes(), shared.Storage().V1().StorageClasses()
	return &Controller{
		client: client, events: events, loop: loop.New(Name, log),
		claims: claims.Lister(), volumes: volumes.Lister(), classes: classes.Lister(), pods: shared.Core().V1().Pods().Lister(),
		claimInformer: claims.Informer(), volumeInformer: volumes.Informer(), classInformer: classes.Informer(),
	}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	if err := loop.On(c.loop, c.claimInformer, c.claimChanged); err != nil {
		return err
	}
	if err := loop.On(c.loop, c.volumeInformer, c.volumeChanged); err != nil {
		return err
	}
	err := loop.On(c.loop, c.classInformer, func(_, after *storagev1.StorageClass) {
		if after != nil {
			c.queueUnbound(func(claim *corev1.PersistentVolumeClaim) bool {
				return !storage.PersistentVolumeClaimHasClass(claim) || storage.GetPersistentVolumeClaimClass(claim) == after.Name
			})
		}
	})
	if err != nil {
		return err
	}
	return c.loop.Run(ctx, workers, c.sync)
}

func (c *Controller) claimChanged(before, after *corev1.PersistentVolumeClaim) {
	if after != nil {
		c.loop.AddObject(after)
	}
	for _, claim := range []*corev1.PersistentVolumeClaim{before, after} {
		if claim != nil && claim.Spec.VolumeName != "" && (after == nil || before == nil || before.Spec.VolumeName != after.Spec.VolumeName) {
			c.loop.Add(volumeKey + claim.Spec.VolumeName)
		}
	}
	if after == nil { // a volume may have been meant for it that it never named
		all, err := c.volumes.List(labels.Everything())
		if err != nil {
			return
		}
		for _, v := range all {
			if ref := v.Spec.ClaimRef; ref != nil && ref.UID == before.UID {
				c.loop.Add(volumeKey + v.Name)
			}
		}
	}
}

func (c *Controller) volumeChanged(before, after *corev1.PersistentVolume) {
	for _, v := range []*corev1.PersistentVolume{before, after} {
		if v != nil && v.Spec.ClaimRef != nil {
			c.loop.Add(v.Spec.ClaimRef.Namespace + "/" + v.Spec.ClaimRef.Name)
		}
	}
	if after == nil {
		return
	}
	c.loop.Add(volumeKey + after.Name)
	if after.Spec.ClaimRef == nil && after.Status.Phase == corev1.VolumeAvailable {
		class := storage.GetPersistentVolumeClass(after)
		c.queueUnbound(func(claim *corev1.PersistentVolumeClaim) bool {
			return claim.Spec.VolumeName == after.Name || claim.Spec.VolumeName == "" && storage.GetPersistentVolumeClaimClass(claim) == class
		})
	}
}

func (c *Controller) queueUnbound(which func(*corev1.PersistentVolumeClaim) bool) {
	all, err := c.claims.List(labels.Everything())
	if err != nil {
		return // an informer's lister does not fail
	}
	for _, claim := range all {
		if !metav1.HasAnnotation(claim.ObjectMeta, storage.AnnBindCompleted) && which(claim) {
			c.loop.AddObject(claim)
		}
	}
}

func (c *Controller) sync(ctx context.Context, key string) error {
	if name, ok := strings.CutPrefix(key, volumeKey); ok {
		return c.syncVolume(ctx, name)
	}
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	return c.syncClaim(ctx, namespace, name)
}

func (c *Controller) syncClaim(ctx context.Context, namespace, name string) error {
	claim, err := c.claims.PersistentVolumeClaims(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	w := claimWorld{claim: claim}
	if w.volumes, err = c.volumes.List(labels.Everything()); err != nil {
		return err
	}
	if class := storage.GetPersistentVolumeClaimClass(claim); class != "" {
		if w.class, err = c.classes.Get(class); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	if !metav1.HasAnnotation(claim.ObjectMeta, storage.AnnBindCompleted) {
		if w.defaultClass, err = c.defaultClass(); err != nil {
			return err
		}
		if w.waiting, err = c.waiting(claim); err != nil {
			return err
		}
	}
	return c.do(ctx, claim, nil, planClaim(w))
}

// defaultClassAnnotation marks the class of claims that name none.
const defaultClassAnnotation = "storageclass.kubernetes.io/is-default-class"

// defaultClass is the newest of the default classes, as upstream has it.
func (c *Controller) defaultClass() (*storagev1.StorageClass, error) {
	all, err := c.classes.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(slices.Clone(all), func(class *storagev1.StorageClass) bool { return class.Annotations[defaultClassAnnotation] != "true" })
	if len(all) == 0 {
		return nil, nil
	}
	return slices.MinFunc(all, func(a, b *storagev1.StorageClass) int {
		if n := b.CreationTimestamp.Time.Compare(a.CreationTimestamp.Time); n != 0 {
			return n
		}
		return strings.Compare(a.Name, b.Name)
	}), nil
}

// waiting names the pods that use the claim and have no node yet.
func (c *Controller) waiting(claim *corev1.PersistentVolumeClaim) ([]string, error) {
	pods, err := c.pods.Pods(claim.Namespace).List(labels.Everything())
	if err != nil {
		return nil, err
	}
	var names []string
	for _, pod := range pods {
		if pod.Spec.NodeName != "" || pod.DeletionTimestamp != nil {
			continue
		}
		if slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
			return v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == claim.Name
		}) {
			names = append(names, pod.Name)
		}
	}
	slices.Sort(names)
	return names, nil
}

func (c *Controller) syncVolume(ctx context.Context, name string) error {
	volume, err := c.volumes.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	claim, err := c.claimOf(ctx, volume)
	if err != nil {
		return err
	}
	return c.do(ctx, nil, volume, planVolume(volume, claim))
}

// claimOf is the claim that the volume means, nil if there is none. Since a volume
// without one is released, the API itself is asked before that.
func (c *Controller) claimOf(ctx context.Context, volume *corev1.PersistentVolume) (*corev1.PersistentVolumeClaim, error) {
	ref := volume.Spec.ClaimRef
	if ref == nil || ref.UID == "" {
		return nil, nil
	}
	claim, err := c.claims.PersistentVolumeClaims(ref.Namespace).Get(ref.Name)
	if err == nil && claim.UID == ref.UID {
		return claim, nil
	}
	claim, err = c.client.CoreV1().PersistentVolumeClaims(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if claim.UID != ref.UID {
		return nil, nil
	}
	return claim, nil
}

// do writes what differs. claim and volume are what was planned for; either may be nil.
func (c *Controller) do(ctx context.Context, claim *corev1.PersistentVolumeClaim, volume *corev1.PersistentVolume, todo actions) error {
	for _, e := range todo.events {
		if e.onVolume {
			c.events.Event(volume, e.kind, e.reason, e.message)
		} else {
			c.events.Event(claim, e.kind, e.reason, e.message)
		}
	}
	if todo.look != "" {
		c.loop.Add(todo.look)
	}
	if todo.volume != nil {
		if err := c.writeVolume(ctx, todo.from, todo.volume); err != nil {
			return err
		}
	}
	if todo.claim != nil {
		return c.writeClaim(ctx, claim, todo.claim)
	}
	return nil
}

func (c *Controller) writeVolume(ctx context.Context, before, want *corev1.PersistentVolume) (err error) {
	current := before
	if !equality.Semantic.DeepEqual(before.ObjectMeta, want.ObjectMeta) || !equality.Semantic.DeepEqual(before.Spec, want.Spec) {
		if current, err = c.client.CoreV1().PersistentVolumes().Update(ctx, want.DeepCopy(), metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	if equality.Semantic.DeepEqual(current.Status, want.Status) {
		return nil
	}
	update := current.DeepCopy()
	update.Status = want.Status
	_, err = c.client.CoreV1().PersistentVolumes().UpdateStatus(ctx, update, metav1.UpdateOptions{})
	return err
}

func (c *Controller) writeClaim(ctx context.Context, before, want *corev1.PersistentVolumeClaim) (err error) {
	current := before
	claims := c.client.CoreV1().PersistentVolumeClaims(want.Namespace)
	if !equality.Semantic.DeepEqual(before.ObjectMeta, want.ObjectMeta) || !equality.Semantic.DeepEqual(before.Spec, want.Spec) {
		if current, err = claims.Update(ctx, want.DeepCopy(), metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	if equality.Semantic.DeepEqual(current.Status, want.Status) {
		return nil
	}
	update := current.DeepCopy()
	update.Status = want.Status
	_, err = claims.UpdateStatus(ctx, update, metav1.UpdateOptions{})
	return err
}
