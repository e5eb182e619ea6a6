// Package replicaset keeps as many pods as each ReplicaSet wants: it adopts and
// releases pods by selector, creates missing ones in growing batches, deletes the
// least valuable surplus, and reports status.
//
// plan.go and rank.go decide and are pure; controller.go does. Several workers run,
// a ReplicaSet is handled by one at a time. Only controllers imports this package.
package replicaset

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"kontiki/controllers/loop"
	"kontiki/controllers/pending"
	"kontiki/controllers/podview"
)

// Name is the controller's name in logs; Component is the source of its events.
const (
	Name      = "replicaset"
	Component = "replicaset-controller"
	workers   = 5
)

var kind = appsv1.SchemeGroupVersion.WithKind("ReplicaSet")

// Controller keeps ReplicaSets at their size.
type Controller struct {
	client kubernetes.Interface
	events record.EventRecorder
	log    *slog.Logger
	now    func() time.Time

	setInformer cache.SharedIndexInformer
	podInformer cache.SharedIndexInformer
	sets        appslisters.ReplicaSetLister
	writes      *pending.Writes
	loop        *loop.Loop
}

// New makes the controller on shared informers (the pod informer with
// podview.Indexers).
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger, now func() time.Time) *Controller {
	sets := shared.Apps().V1().ReplicaSets()
	return &Controller{
		client: client, events: events, log: log, now: now,
		setInformer: sets.Informer(),
		podInformer: shared.Core().V1().Pods().Informer(),
		sets:        sets.Lister(),
		writes:      pending.New(),
		loop:        loop.New(Name, log),
	}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	if err := loop.On(c.loop, c.setInformer, c.setChanged); err != nil {
		return err
	}
	if err := loop.On(c.loop, c.podInformer, c.podChanged); err != nil {
		return err
	}
	return c.loop.Run(ctx, workers, c.sync)
}

func (c *Controller) setChanged(before, after *appsv1.ReplicaSet) {
	if after == nil {
		c.loop.AddObject(before)
		return
	}
	c.loop.AddObject(after)
}

func (c *Controller) podChanged(before, after *corev1.Pod) {
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
	sets, err := c.sets.ReplicaSets(after.Namespace).List(labels.Everything())
	if err != nil {
		return
	}
	for _, rs := range sets {
		if selector, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector); err == nil &&
			!selector.Empty() && selector.Matches(labels.Set(after.Labels)) {
			c.loop.AddObject(rs)
		}
	}
}

func (c *Controller) addOwner(pod *corev1.Pod) {
	if owner := metav1.GetControllerOfNoCopy(pod); owner != nil && owner.Kind == kind.Kind {
		c.loop.Add(pod.Namespace + "/" + owner.Name)
	}
}

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	rs, err := c.sets.ReplicaSets(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.writes.Forget(key)
		return nil
	}
	if err != nil {
		return err
	}
	selector, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
	if err != nil {
		c.log.Error("selector is not valid", "controller", Name, "replicaSet", key, "error", err)
		return nil
	}
	settled := c.writes.Settled(key, c.podInformer.GetIndexer(), func(uid types.UID) bool { return c.living(rs, uid) }, c.now())
	owned, err := c.claimPods(ctx, rs, selector)
	if err != nil {
		return err
	}
	var failure error
	if settled {
		failure = c.resize(ctx, key, rs, owned)
	}
	if err := c.writeStatus(ctx, key, rs, owned, failure); err != nil {
		return err
	}
	return failure
}

func (c *Controller) living(rs *appsv1.ReplicaSet, uid types.UID) bool {
	pods, err := podview.Owned(c.podInformer.GetIndexer(), rs.UID)
	if err != nil {
		return true
	}
	for _, pod := range pods {
		if pod.UID == uid {
			return pod.DeletionTimestamp == nil
		}
	}
	return false
}

func (c *Controller) claimPods(ctx context.Context, rs *appsv1.ReplicaSet, selector labels.Selector) ([]*corev1.Pod, error) {
	candidates, err := podview.Owned(c.podInformer.GetIndexer(), rs.UID)
	if err != nil {
		return nil, err
	}
	orphans, err := podview.Indexed(c.podInformer.GetIndexer(), podview.Orphans, rs.Namespace)
	if err != nil {
		return nil, err
	}
	claimed := claim(rs, selector, append(candidates, orphans...))
	if len(claimed.adopt) > 0 {
		if err := c.mayAdopt(ctx, rs); err != nil {
			return nil, err
		}
	}
	for _, pod := range claimed.adopt {
		adopted, err := c.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType,
			adoption(rs, pod), metav1.PatchOptions{})
		if apierrors.IsNotFound(err) || apierrors.IsInvalid(err) {
			continue // gone, or taken by another
		}
		if err != nil {
			return nil, fmt.Errorf("adopt pod %s: %w", pod.Name, err)
		}
		claimed.owned = append(claimed.owned, adopted)
	}
	for _, pod := range claimed.release {
		_, err := c.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType,
			release(rs, pod), metav1.PatchOptions{})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsInvalid(err) {
			return nil, fmt.Errorf("release pod %s: %w", pod.Name, err)
		}
	}
	return claimed.owned, nil
}

// mayAdopt asks the API itself, since a cache may hold a ReplicaSet that is gone.
func (c *Controller) mayAdopt(ctx context.Context, rs *appsv1.ReplicaSet) error {
	fresh, err := c.client.AppsV1().ReplicaSets(rs.Namespace).Get(ctx, rs.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if fresh.UID != rs.UID || fresh.DeletionTimestamp != nil {
		return fmt.Errorf("replica set %s/%s is gone or being deleted and adopts nothing", rs.Namespace, rs.Name)
	}
	return nil
}

func adoption(rs *appsv1.ReplicaSet, pod *corev1.Pod) []byte {
	return fmt.Appendf(nil, `{"metadata":{"ownerReferences":[{"apiVersion":%q,"kind":%q,"name":%q,"uid":%q,"controller":true,"blockOwnerDeletion":true}],"uid":%q}}`,
		kind.GroupVersion().String(), kind.Kind, rs.Name, rs.UID, pod.UID)
}

func release(rs *appsv1.ReplicaSet, pod *corev1.Pod) []byte {
	return fmt.Appendf(nil, `{"metadata":{"ownerReferences":[{"$patch":"delete","uid":%q}],"uid":%q}}`, rs.UID, pod.UID)
}

func (c *Controller) resize(ctx context.Context, key string, rs *appsv1.ReplicaSet, owned []*corev1.Pod) error {
	related, err := c.relatedPods(rs)
	if err != nil {
		return err
	}
	todo := plan(rs, owned, related, c.now())
	if todo.create > 0 {
		_, err := slowStart(todo.create, func() error { return c.create(ctx, key, rs) })
		return err
	}
	return each(todo.remove, func(pod *corev1.Pod) error { return c.remove(ctx, key, rs, pod) })
}

// relatedPods are the pods of all ReplicaSets with the same controller.
func (c *Controller) relatedPods(rs *appsv1.ReplicaSet) ([]*corev1.Pod, error) {
	owner := metav1.GetControllerOfNoCopy(rs)
	if owner == nil {
		return podview.Owned(c.podInformer.GetIndexer(), rs.UID)
	}
	sets, err := c.sets.ReplicaSets(rs.Namespace).List(labels.Everything())
	if err != nil {
		return nil, err
	}
	var pods []*corev1.Pod
	for _, sibling := range sets {
		if o := metav1.GetControllerOfNoCopy(sibling); o == nil || o.UID != owner.UID {
			continue
		}
		more, err := podview.Owned(c.podInformer.GetIndexer(), sibling.UID)
		if err != nil {
			return nil, err
		}
		pods = append(pods, more...)
	}
	return pods, nil
}

func (c *Controller) create(ctx context.Context, key string, rs *appsv1.ReplicaSet) error {
	pod, err := c.client.CoreV1().Pods(rs.Namespace).Create(ctx, podOf(rs), metav1.CreateOptions{})
	if err != nil {
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil // nothing can be created here any more
		}
		c.events.Eventf(rs, corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
		return refusal{"FailedCreate", err}
	}
	c.writes.Created(key, pod, c.now())
	c.events.Eventf(rs, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: %v", pod.Name)
	return nil
}

func (c *Controller) remove(ctx context.Context, key string, rs *appsv1.ReplicaSet, pod *corev1.Pod) error {
	err := c.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, *metav1.NewPreconditionDeleteOptions(string(pod.UID)))
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	if err != nil {
		c.events.Eventf(rs, corev1.EventTypeWarning, "FailedDelete", "Error deleting: %v", err)
		return refusal{"FailedDelete", err}
	}
	c.writes.Deleted(key, pod.UID, c.now())
	c.events.Eventf(rs, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: %v", pod.Name)
	return nil
}

// podOf is the pod the template asks for.
func podOf(rs *appsv1.ReplicaSet) *corev1.Pod {
	template := rs.Spec.Template.DeepCopy()
	prefix := rs.Name + "-"
	if len(validation.NameIsDNSSubdomain(strings.TrimSuffix(prefix, "-"), true)) != 0 {
		prefix = rs.Name
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       rs.Namespace,
			GenerateName:    prefix,
			Labels:          template.Labels,
			Annotations:     template.Annotations,
			Finalizers:      template.Finalizers,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(rs, kind)},
		},
		Spec: template.Spec,
	}
}

func (c *Controller) writeStatus(ctx context.Context, key string, rs *appsv1.ReplicaSet, owned []*corev1.Pod, failure error) error {
	status, again := statusOf(rs, owned, troubleOf(failure), c.now())
	if again > 0 {
		c.loop.AddAfter(key, again)
	}
	if !changed(rs, status) {
		return nil
	}
	update := rs.DeepCopy()
	update.Status = status
	_, err := c.client.AppsV1().ReplicaSets(rs.Namespace).UpdateStatus(ctx, update, metav1.UpdateOptions{})
	return err
}
