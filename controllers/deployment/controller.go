// Package deployment turns Deployments into ReplicaSets: rolling updates,
// Recreate, proportional scaling, revisions and their history, pause and resume,
// progress deadlines. Names, annotations, conditions, events are upstream's, which
// is what kubectl rollout works with.
//
// plan.go, sizes.go, revision.go and status.go decide and are pure; controller.go
// does. Several workers run, a Deployment is handled by one at a time. Only
// controllers imports this package.
package deployment

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"kontiki/controllers/loop"
	"kontiki/controllers/pending"
	"kontiki/controllers/podview"
)

// Name is the controller's name in logs; Component is the source of its events.
const (
	Name      = "deployment"
	Component = "deployment-controller"
	workers   = 5
)

var kind = appsv1.SchemeGroupVersion.WithKind("Deployment")

// Controller rolls Deployments out.
type Controller struct {
	client kubernetes.Interface
	events record.EventRecorder
	log    *slog.Logger
	now    func() time.Time

	deploymentInformer, setInformer, podInformer cache.SharedIndexInformer

	deployments appslisters.DeploymentLister
	sets        appslisters.ReplicaSetLister
	// writes are those to ReplicaSets. Without it, a template that changes before the cache
	// shows them would be planned over sizes that are no more.
	writes *pending.Writes
	loop   *loop.Loop
}

// New makes the controller on shared informers.
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger, now func() time.Time) *Controller {
	apps := shared.Apps().V1()
	return &Controller{
		client: client, events: events, log: log.With("controller", Name), now: now,
		deploymentInformer: apps.Deployments().Informer(),
		setInformer:        apps.ReplicaSets().Informer(),
		podInformer:        shared.Core().V1().Pods().Informer(),
		deployments:        apps.Deployments().Lister(),
		sets:               apps.ReplicaSets().Lister(),
		writes:             pending.New(),
		loop:               loop.New(Name, log),
	}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	if err := c.loop.OnObject(c.deploymentInformer); err != nil {
		return err
	}
	if err := loop.On(c.loop, c.setInformer, c.setChanged); err != nil {
		return err
	}
	if err := loop.On(c.loop, c.podInformer, c.podChanged); err != nil {
		return err
	}
	return c.loop.Run(ctx, workers, c.sync)
}

func (c *Controller) setChanged(before, after *appsv1.ReplicaSet) {
	if before != nil {
		c.addOwner(before)
	}
	if after == nil {
		return
	}
	if metav1.GetControllerOfNoCopy(after) != nil {
		c.addOwner(after)
		return
	}
	deployments, err := c.deployments.Deployments(after.Namespace).List(labels.Everything())
	if err != nil {
		return
	}
	for _, d := range deployments {
		if selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector); err == nil &&
			!selector.Empty() && selector.Matches(labels.Set(after.Labels)) {
			c.loop.AddObject(d)
		}
	}
}

func (c *Controller) addOwner(rs *appsv1.ReplicaSet) {
	if owner := metav1.GetControllerOfNoCopy(rs); owner != nil && owner.Kind == kind.Kind {
		c.loop.Add(rs.Namespace + "/" + owner.Name)
	}
}

// podChanged matters to Recreate only, which waits for the last old pod to go.
func (c *Controller) podChanged(before, after *corev1.Pod) {
	if before == nil || after != nil && !podview.Finished(after) {
		return
	}
	owner := metav1.GetControllerOfNoCopy(before)
	if owner == nil || owner.Kind != "ReplicaSet" {
		return
	}
	rs, err := c.sets.ReplicaSets(before.Namespace).Get(owner.Name)
	if err != nil {
		return
	}
	if d := metav1.GetControllerOfNoCopy(rs); d != nil {
		if obj, err := c.deployments.Deployments(rs.Namespace).Get(d.Name); err == nil && !rolling(obj) {
			c.loop.AddObject(obj)
		}
	}
}

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	d, err := c.deployments.Deployments(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.writes.Forget(key)
		return nil
	}
	if err != nil {
		return err
	}
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil || selector.Empty() {
		c.events.Eventf(d, corev1.EventTypeWarning, "SelectingAll", "This deployment is selecting all pods. A non-empty selector is required.")
		return nil
	}
	if !c.writes.Settled(key, c.setInformer.GetIndexer(), func(types.UID) bool { return false }, c.now()) {
		return nil // the event that settles it queues the key
	}
	w := world{deployment: d, pods: map[types.UID][]*corev1.Pod{}, now: c.now()}
	if w.sets, err = c.claim(ctx, d, selector); err != nil {
		return err
	}
	for _, rs := range w.sets {
		if w.pods[rs.UID], err = podview.Owned(c.podInformer.GetIndexer(), rs.UID); err != nil {
			return err
		}
	}
	todo := plan(w)
	if todo.again > 0 {
		c.loop.AddAfter(key, todo.again)
	}
	return c.do(ctx, d, todo)
}

// claim returns the ReplicaSets the Deployment controls, after taking orphans that
// match and letting go of those that do not match any more.
func (c *Controller) claim(ctx context.Context, d *appsv1.Deployment, selector labels.Selector) ([]*appsv1.ReplicaSet, error) {
	sets, err := c.sets.ReplicaSets(d.Namespace).List(labels.Everything())
	if err != nil {
		return nil, err
	}
	var owned []*appsv1.ReplicaSet
	for _, rs := range sets {
		owner, matches := metav1.GetControllerOfNoCopy(rs), selector.Matches(labels.Set(rs.Labels))
		switch {
		case owner != nil && owner.UID != d.UID:
		case owner != nil && matches:
			owned = append(owned, rs)
		case d.DeletionTimestamp != nil || rs.DeletionTimestamp != nil:
		case owner != nil:
			if err := c.patchOwners(ctx, rs, fmt.Sprintf(`{"$patch":"delete","uid":%q}`, d.UID)); err != nil {
				return nil, err
			}
		case matches:
			if err := c.adopt(ctx, d, rs); err != nil {
				return nil, err
			}
		}
	}
	return owned, nil
}

func (c *Controller) adopt(ctx context.Context, d *appsv1.Deployment, rs *appsv1.ReplicaSet) error {
	fresh, err := c.client.AppsV1().Deployments(d.Namespace).Get(ctx, d.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if fresh.UID != d.UID || fresh.DeletionTimestamp != nil {
		return fmt.Errorf("deployment %s/%s is gone or being deleted and adopts nothing", d.Namespace, d.Name)
	}
	return c.patchOwners(ctx, rs, fmt.Sprintf(`{"apiVersion":%q,"kind":%q,"name":%q,"uid":%q,"controller":true,"blockOwnerDeletion":true}`,
		kind.GroupVersion().String(), kind.Kind, d.Name, d.UID))
}

// patchOwners leads to an event of the ReplicaSet, and by it to another pass.
func (c *Controller) patchOwners(ctx context.Context, rs *appsv1.ReplicaSet, reference string) error {
	patch := fmt.Appendf(nil, `{"metadata":{"ownerReferences":[%s],"uid":%q}}`, reference, rs.UID)
	_, err := c.client.AppsV1().ReplicaSets(rs.Namespace).Patch(ctx, rs.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsInvalid(err) {
		return nil
	}
	return err
}

func (c *Controller) do(ctx context.Context, d *appsv1.Deployment, todo actions) error {
	if todo.create != nil {
		if err := c.create(ctx, d, todo.create); err != nil {
			return err
		}
	}
	key := d.Namespace + "/" + d.Name
	for _, u := range todo.update {
		written, err := c.client.AppsV1().ReplicaSets(d.Namespace).Update(ctx, u.set, metav1.UpdateOptions{})
		if err != nil {
			return err
		}
		c.writes.Updated(key, written, c.now())
		c.reportScaling(d, u.set.Name, u.from, wanted(u.set))
	}
	for _, rs := range todo.remove {
		options := metav1.NewPreconditionDeleteOptions(string(rs.UID))
		options.Preconditions.ResourceVersion = &rs.ResourceVersion // it may have pods again by now
		err := c.client.AppsV1().ReplicaSets(d.Namespace).Delete(ctx, rs.Name, *options)
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	current := d
	if todo.revision != "" {
		patch := fmt.Appendf(nil, `{"metadata":{"uid":%q,"resourceVersion":%q,"annotations":{%q:%q}}}`, d.UID, d.ResourceVersion, revisionAnnotation, todo.revision)
		patched, err := c.client.AppsV1().Deployments(d.Namespace).Patch(ctx, d.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
		if err != nil {
			return err
		}
		current = patched
	}
	return c.writeStatus(ctx, current, todo.status)
}

func (c *Controller) writeStatus(ctx context.Context, d *appsv1.Deployment, status *appsv1.DeploymentStatus) error {
	if status == nil {
		return nil
	}
	update := d.DeepCopy()
	update.Status = *status
	_, err := c.client.AppsV1().Deployments(d.Namespace).UpdateStatus(ctx, update, metav1.UpdateOptions{})
	return err
}

func (c *Controller) reportScaling(d *appsv1.Deployment, set string, from, to int32) {
	switch {
	case to > from:
		c.events.Eventf(d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled up replica set %s from %d to %d", set, from, to)
	case to < from:
		c.events.Eventf(d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled down replica set %s from %d to %d", set, from, to)
	}
}

// create makes the new ReplicaSet. Its name says what is in it, so one that exists
// is ours from an earlier pass; or two templates have one hash, and the collision
// count, part of the hash, is raised.
func (c *Controller) create(ctx context.Context, d *appsv1.Deployment, rs *appsv1.ReplicaSet) error {
	made, err := c.client.AppsV1().ReplicaSets(d.Namespace).Create(ctx, rs, metav1.CreateOptions{})
	switch {
	case err == nil:
		c.writes.Created(d.Namespace+"/"+d.Name, made, c.now())
		c.reportScaling(d, rs.Name, 0, wanted(rs))
		return nil
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil
	case apierrors.IsAlreadyExists(err):
		return c.collided(ctx, d, rs)
	}
	c.events.Eventf(d, corev1.EventTypeWarning, reasonFailedCreate, "Failed to create new replica set %q: %v", rs.Name, err)
	if e := c.writeStatus(ctx, d, refusedCreate(d, rs.Name, err, c.now())); e != nil {
		c.log.Warn("condition Progressing not written", "deployment", d.Namespace+"/"+d.Name, "error", e)
	}
	return err
}

func (c *Controller) collided(ctx context.Context, d *appsv1.Deployment, rs *appsv1.ReplicaSet) error {
	existing, err := c.client.AppsV1().ReplicaSets(d.Namespace).Get(ctx, rs.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if owner := metav1.GetControllerOfNoCopy(existing); owner != nil && owner.UID == d.UID && sameTemplate(&existing.Spec.Template, &d.Spec.Template) {
		c.writes.Created(d.Namespace+"/"+d.Name, existing, c.now()) // by an earlier leader
		return nil
	}
	status := d.Status.DeepCopy()
	status.CollisionCount = ptr.To(ptr.Deref(d.Status.CollisionCount, 0) + 1)
	if err := c.writeStatus(ctx, d, status); err != nil {
		return err
	}
	return fmt.Errorf("replica set name %s of deployment %s/%s is taken by another template: collision count raised to %d",
		rs.Name, d.Namespace, d.Name, *status.CollisionCount)
}
