// Package statefulset keeps pods that each have an identity: a name with an ordinal,
// and claims of their own. It makes and deletes them in order or all at once, rolls
// out new templates from the highest ordinal down, and reports status.
//
// plan.go and pod.go decide and are pure; controller.go does. Several workers run, a
// set is handled by one at a time. Only controllers imports this package.
package statefulset

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"kontiki/controllers/history"
	"kontiki/controllers/loop"
	"kontiki/controllers/pending"
	"kontiki/controllers/podcontrol"
)

// Name is the controller's name in logs; Component is the source of its events.
const (
	Name      = "statefulset"
	Component = "statefulset-controller"
	workers   = 5
)

var kind = appsv1.SchemeGroupVersion.WithKind("StatefulSet")

// Controller keeps StatefulSets.
type Controller struct {
	client            kubernetes.Interface
	events            record.EventRecorder
	log               *slog.Logger
	setInformer       cache.SharedIndexInformer
	revisionsInformer cache.SharedIndexInformer
	claimsInformer    cache.SharedIndexInformer
	sets              appslisters.StatefulSetLister
	claims            corelisters.PersistentVolumeClaimLister
	pods              *podcontrol.Control
	history           *history.Keeper
	loop              *loop.Loop
}

// New makes the controller on shared informers (the pod informer with
// podview.Indexers).
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger, now func() time.Time) *Controller {
	sets, revisions := shared.Apps().V1().StatefulSets(), shared.Apps().V1().ControllerRevisions()
	claims := shared.Core().V1().PersistentVolumeClaims()
	fresh := func(ctx context.Context, namespace, name string) (metav1.Object, error) {
		return client.AppsV1().StatefulSets(namespace).Get(ctx, name, metav1.GetOptions{})
	}
	return &Controller{
		client: client, events: events, log: log,
		setInformer: sets.Informer(), revisionsInformer: revisions.Informer(), claimsInformer: claims.Informer(),
		sets: sets.Lister(), claims: claims.Lister(),
		pods: &podcontrol.Control{
			Kind: kind, Client: client, Pods: shared.Core().V1().Pods().Informer(), Events: events,
			Writes: pending.New(), Now: now, Fresh: fresh, Says: says,
		},
		history: &history.Keeper{Kind: kind, Client: client, Revisions: revisions.Lister(), Fresh: fresh},
		loop:    loop.New(Name, log),
	}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	if err := c.loop.OnObject(c.setInformer); err != nil {
		return err
	}
	// Revisions and claims are read only; who makes them queues its own key.
	if err := loop.On(c.loop, c.revisionsInformer, func(_, _ *appsv1.ControllerRevision) {}); err != nil {
		return err
	}
	if err := loop.On(c.loop, c.claimsInformer, func(_, _ *corev1.PersistentVolumeClaim) {}); err != nil {
		return err
	}
	err := c.pods.OnPods(c.loop, func(pod *corev1.Pod) []string {
		parent, _ := parse(pod.Name)
		sets, err := c.sets.StatefulSets(pod.Namespace).List(labels.Everything())
		if err != nil || parent == "" {
			return nil
		}
		return podcontrol.Matching(pod, sets, func(s *appsv1.StatefulSet) *metav1.LabelSelector { return s.Spec.Selector })
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
	set, err := c.sets.StatefulSets(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.pods.Writes.Forget(key)
		return nil
	}
	if err != nil {
		return err
	}
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil || selector.Empty() {
		c.log.Error("selector is not valid", "controller", Name, "statefulSet", key, "error", err)
		return nil
	}
	if !c.pods.Settled(set) {
		return nil // the event that settles it queues the key
	}
	w := world{set: set, now: c.pods.Now(), claimed: func(name string) bool {
		_, err := c.claims.PersistentVolumeClaims(namespace).Get(name)
		return err == nil
	}}
	if w.revisions, err = c.history.Owned(ctx, set, selector); err != nil {
		return err
	}
	w.pods, err = c.pods.Claim(ctx, set, func(pod *corev1.Pod) bool {
		parent, ordinal := parse(pod.Name)
		return parent == set.Name && ordinal >= 0 && selector.Matches(labels.Set(pod.Labels))
	})
	if err != nil {
		return err
	}
	todo, err := plan(w)
	if err != nil {
		return err
	}
	if todo.again > 0 {
		c.loop.AddAfter(key, todo.again)
	}
	return c.do(ctx, w, todo)
}

func (c *Controller) do(ctx context.Context, w world, todo actions) error {
	set := w.set
	if err := c.history.Write(ctx, set, todo.revision); err != nil {
		var collision history.ErrCollision
		if errors.As(err, &collision) {
			status := set.Status.DeepCopy()
			status.CollisionCount = ptr.To(ptr.Deref(status.CollisionCount, 0) + 1)
			return c.writeStatus(ctx, set, status)
		}
		return err
	}
	if set.Generation != set.Status.ObservedGeneration && set.DeletionTimestamp == nil { // size or policy may have changed
		for _, pod := range w.pods {
			if err := c.ownClaims(ctx, set, pod); err != nil {
				return err
			}
		}
	}
	failure := c.changePods(ctx, set, todo)
	if err := c.history.Drop(ctx, todo.drop); err != nil {
		return err
	}
	if err := c.writeStatus(ctx, set, todo.status); err != nil {
		return err
	}
	return failure
}

func (c *Controller) changePods(ctx context.Context, set *appsv1.StatefulSet, todo actions) error {
	for _, pod := range todo.identify {
		if err := c.identify(ctx, pod); err != nil {
			return err
		}
	}
	for _, lost := range todo.claims {
		if err := c.makeClaim(ctx, set, lost.pod, lost.claim); err != nil {
			return err
		}
	}
	_, err := podcontrol.SlowStart(len(todo.create), func(i int) error {
		pod := todo.create[i]
		if err := c.makeClaims(ctx, set, pod); err != nil {
			return err
		}
		return c.pods.Create(ctx, set, pod)
	})
	if err != nil {
		return err
	}
	for _, pod := range todo.scaled {
		if err := c.ownClaims(ctx, set, pod); err != nil {
			return err
		}
	}
	return podcontrol.Each(append(todo.scaled, todo.remove...), func(pod *corev1.Pod) error { return c.pods.Delete(ctx, set, pod) })
}

// says names the set beside the pod, as upstream's events of StatefulSets do.
func says(set podcontrol.Owner, verb, pod string, err error) string {
	if err != nil {
		return fmt.Sprintf("%s Pod %s in StatefulSet %s failed error: %s", verb, pod, set.GetName(), err)
	}
	return fmt.Sprintf("%s Pod %s in StatefulSet %s successful", verb, pod, set.GetName())
}

// identify puts the labels of its identity on a pod.
func (c *Controller) identify(ctx context.Context, pod *corev1.Pod) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID, "labels": identityLabels(pod)}})
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	return loop.IgnoreNotFound(err)
}

// makeClaims makes the claims a pod needs. One that goes, or is about to, is waited for.
func (c *Controller) makeClaims(ctx context.Context, set *appsv1.StatefulSet, pod *corev1.Pod) error {
	_, ordinal := parse(pod.Name)
	for _, claim := range claimsOf(set, ordinal) {
		there, err := c.client.CoreV1().PersistentVolumeClaims(set.Namespace).Get(ctx, claim.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			err = c.makeClaim(ctx, set, pod.Name, claim)
		case err != nil:
		case there.DeletionTimestamp != nil:
			err = fmt.Errorf("pod %s waits for its claim %s, which is being deleted", pod.Name, claim.Name)
		case condemned(set, there):
			err = fmt.Errorf("pod %s waits for its claim %s, which goes with the pod that was scaled away", pod.Name, claim.Name)
		default:
			err = c.setOwners(ctx, there, claimOwners(set, nil, there.OwnerReferences))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *Controller) makeClaim(ctx context.Context, set *appsv1.StatefulSet, pod string, claim *corev1.PersistentVolumeClaim) error {
	_, err := c.client.CoreV1().PersistentVolumeClaims(set.Namespace).Create(ctx, claim, metav1.CreateOptions{})
	switch {
	case apierrors.IsAlreadyExists(err): // the cache is behind
		return nil
	case err != nil:
		c.events.Eventf(set, corev1.EventTypeWarning, "FailedCreate", "Create Claim %s for Pod %s in StatefulSet %s failed error: %v", claim.Name, pod, set.Name, err)
		return err
	}
	c.events.Eventf(set, corev1.EventTypeNormal, "SuccessfulCreate", "Create Claim %s Pod %s in StatefulSet %s success", claim.Name, pod, set.Name)
	return nil
}

// ownClaims writes who owns the claims of a pod, as the retention policy has it.
func (c *Controller) ownClaims(ctx context.Context, set *appsv1.StatefulSet, pod *corev1.Pod) error {
	_, ordinal := parse(pod.Name)
	for _, claim := range claimsOf(set, ordinal) {
		there, err := c.client.CoreV1().PersistentVolumeClaims(set.Namespace).Get(ctx, claim.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return err
		}
		if err := c.setOwners(ctx, there, claimOwners(set, pod, there.OwnerReferences)); err != nil {
			return err
		}
	}
	return nil
}

func (c *Controller) setOwners(ctx context.Context, claim *corev1.PersistentVolumeClaim, owners []metav1.OwnerReference) error {
	if equality.Semantic.DeepEqual(claim.OwnerReferences, owners) {
		return nil
	}
	update := claim.DeepCopy()
	update.OwnerReferences = owners
	_, err := c.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, update, metav1.UpdateOptions{})
	return err
}

func (c *Controller) writeStatus(ctx context.Context, set *appsv1.StatefulSet, status *appsv1.StatefulSetStatus) error {
	if status == nil {
		return nil
	}
	update := set.DeepCopy()
	update.Status = *status
	_, err := c.client.AppsV1().StatefulSets(set.Namespace).UpdateStatus(ctx, update, metav1.UpdateOptions{})
	return err
}
