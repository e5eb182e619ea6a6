// Package localpath is the provisioner kontiki.io/local-path: it makes volumes that
// are directories on the node that the scheduler chose, deletes them when their
// claims are gone, and keeps the StorageClass local-path.
//
// The directories are the agents': one makes a volume's at its first use, and
// removes it when the volume is being deleted; the finalizer waits for that, however long
// a node is away. When its Node object was removed, nobody will: then the finalizer is taken
// away here. plan.go decides and is pure; controller.go does. Only
// controllers imports this package.
package localpath

import (
	"context"
	"log/slog"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
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
	Name      = "localpath"
	Component = Provisioner
	workers   = 2
)

// Keys: a claim is namespace/name, a volume and the class have prefixes.
const (
	volumeKey = "volume:"
	classKey  = "class:"
)

// Controller provisions volumes of local-path.
type Controller struct {
	client  kubernetes.Interface
	events  record.EventRecorder
	log     *slog.Logger
	loop    *loop.Loop
	claims  corelisters.PersistentVolumeClaimLister
	volumes corelisters.PersistentVolumeLister
	classes storagelisters.StorageClassLister

	claimInformer, volumeInformer, classInformer, nodeInformer cache.SharedIndexInformer
}

// New makes the controller on shared informers.
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger) *Controller {
	core, classes := shared.Core().V1(), shared.Storage().V1().StorageClasses()
	return &Controller{
		client: client, events: events, log: log.With("controller", Name), loop: loop.New(Name, log),
		claims: core.PersistentVolumeClaims().Lister(), volumes: core.PersistentVolumes().Lister(), classes: classes.Lister(),
		claimInformer: core.PersistentVolumeClaims().Informer(), volumeInformer: core.PersistentVolumes().Informer(),
		classInformer: classes.Informer(), nodeInformer: core.Nodes().Informer(),
	}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	err := loop.On(c.loop, c.claimInformer, func(_, after *corev1.PersistentVolumeClaim) {
		if after != nil && after.Spec.VolumeName == "" && after.Annotations[storage.AnnStorageProvisioner] == Provisioner {
			c.loop.AddObject(after)
		}
	})
	if err != nil {
		return err
	}
	err = loop.On(c.loop, c.volumeInformer, func(_, after *corev1.PersistentVolume) {
		if after != nil && after.Annotations[storage.AnnDynamicallyProvisioned] == Provisioner {
			c.loop.Add(volumeKey + after.Name)
		}
	})
	if err != nil {
		return err
	}
	err = loop.On(c.loop, c.nodeInformer, func(_, after *corev1.Node) {
		if after == nil {
			c.queueDeleted()
		}
	})
	if err != nil {
		return err
	}
	err = loop.On(c.loop, c.classInformer, func(_, after *storagev1.StorageClass) {
		if after == nil {
			c.loop.Add(classKey)
		}
	})
	if err != nil {
		return err
	}
	c.loop.Add(classKey)
	return c.loop.Run(ctx, workers, c.sync)
}

// queueDeleted looks at volumes that are being deleted: their node may be gone.
func (c *Controller) queueDeleted() {
	all, err := c.volumes.List(labels.Everything())
	if err != nil {
		return // an informer's lister does not fail
	}
	for _, v := range all {
		if v.DeletionTimestamp != nil {
			c.loop.Add(volumeKey + v.Name)
		}
	}
}

func (c *Controller) sync(ctx context.Context, key string) error {
	if key == classKey {
		return c.ensureClass(ctx)
	}
	if name, ok := strings.CutPrefix(key, volumeKey); ok {
		return c.syncVolume(ctx, name)
	}
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	return c.syncClaim(ctx, namespace, name)
}

// ensureClass makes the class where there is none. One that was changed stays so.
func (c *Controller) ensureClass(ctx context.Context) error {
	want := class()
	if _, err := c.classes.Get(want.Name); !apierrors.IsNotFound(err) {
		return err
	}
	_, err := c.client.StorageV1().StorageClasses().Create(ctx, want, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

func (c *Controller) syncClaim(ctx context.Context, namespace, name string) error {
	claim, err := c.claims.PersistentVolumeClaims(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	class, err := c.classes.Get(storage.GetPersistentVolumeClaimClass(claim))
	if apierrors.IsNotFound(err) {
		return nil // the binder tells
	}
	if err != nil {
		return err
	}
	node, err := c.node(ctx, claim.Annotations[storage.AnnSelectedNode])
	if err != nil {
		return err
	}
	return c.provision(ctx, claim, planClaim(claim, class, node))
}

// node asks the API itself: a node that a cache does not show yet exists.
func (c *Controller) node(ctx context.Context, name string) (*corev1.Node, error) {
	if name == "" {
		return nil, nil
	}
	node, err := c.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return node, err
}

func (c *Controller) provision(ctx context.Context, claim *corev1.PersistentVolumeClaim, todo provision) error {
	if todo.refusal != "" {
		c.events.Event(claim, corev1.EventTypeWarning, "ProvisioningFailed", todo.refusal)
	}
	if todo.unselect {
		update := claim.DeepCopy()
		delete(update.Annotations, storage.AnnSelectedNode)
		_, err := c.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, update, metav1.UpdateOptions{})
		return err
	}
	if todo.volume == nil {
		return nil
	}
	if _, err := c.volumes.Get(todo.volume.Name); !apierrors.IsNotFound(err) {
		return err // it is there, the binder goes on
	}
	c.events.Eventf(claim, corev1.EventTypeNormal, "Provisioning", "External provisioner is provisioning volume for claim %q", claim.Namespace+"/"+claim.Name)
	_, err := c.client.CoreV1().PersistentVolumes().Create(ctx, todo.volume, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	if err != nil {
		c.events.Eventf(claim, corev1.EventTypeWarning, "ProvisioningFailed", "Error creating provisioned PV object for claim %s: %v", claim.Namespace+"/"+claim.Name, err)
		return err
	}
	c.events.Eventf(claim, corev1.EventTypeNormal, "ProvisioningSucceeded", "Successfully provisioned volume %s", todo.volume.Name)
	return nil
}

func (c *Controller) syncVolume(ctx context.Context, name string) error {
	v, err := c.volumes.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	gone := false
	if v.DeletionTimestamp != nil {
		node, err := c.node(ctx, v.Labels[corev1.LabelHostname])
		if err != nil {
			return err
		}
		gone = node == nil
	}
	switch planVolume(v, gone) {
	case reclaim:
		err = c.client.CoreV1().PersistentVolumes().Delete(ctx, name, *metav1.NewPreconditionDeleteOptions(string(v.UID)))
	case forget:
		c.log.Info("a volume goes with its node", "volume", name, "node", v.Labels[corev1.LabelHostname])
		update := v.DeepCopy()
		update.Finalizers = nil
		_, err = c.client.CoreV1().PersistentVolumes().Update(ctx, update, metav1.UpdateOptions{})
	}
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
