// Package replicaset keeps as many pods as each ReplicaSet, or ReplicationController,
// wants: it adopts and releases pods by selector, creates missing ones in growing
// batches, deletes the least valuable surplus, and reports status.
//
// plan.go and rank.go decide and are pure; controller.go does, on one of two sources.
// Several workers run, an object is handled by one at a time. Only controllers
// imports this package.
package replicaset

import (
	"context"
	"log/slog"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"kontiki/controllers/loop"
	"kontiki/controllers/pending"
	"kontiki/controllers/podcontrol"
	"kontiki/controllers/podview"
)

// Names of the controllers in logs; components are the sources of their events.
const (
	Name      = "replicaset"
	Component = "replicaset-controller"

	ReplicationName      = "replicationcontroller"
	ReplicationComponent = "replication-controller"

	workers = 5
)

// Controller keeps objects of one source at their size.
type Controller struct {
	source source
	pods   *podcontrol.Control
	log    *slog.Logger
	loop   *loop.Loop
}

// New makes the controller of ReplicaSets on shared informers (the pod informer
// with podview.Indexers).
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger, now func() time.Time) *Controller {
	return newController(replicaSets(client, shared), client, shared, events, log, now)
}

// NewReplication makes the controller of ReplicationControllers.
func NewReplication(client kubernetes.Interface, shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger, now func() time.Time) *Controller {
	return newController(replicationControllers(client, shared), client, shared, events, log, now)
}

func newController(s source, client kubernetes.Interface, shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger, now func() time.Time) *Controller {
	return &Controller{
		source: s,
		pods: &podcontrol.Control{
			Kind: s.kind, Client: client, Pods: shared.Core().V1().Pods().Informer(), Events: events,
			Writes: pending.New(), Now: now, Fresh: s.fresh,
		},
		log:  log,
		loop: loop.New(s.name, log),
	}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	if err := c.source.watch(c.loop); err != nil {
		return err
	}
	err := c.pods.OnPods(c.loop, func(pod *corev1.Pod) []string {
		sets, err := c.source.list(pod.Namespace)
		if err != nil {
			return nil
		}
		return podcontrol.Matching(pod, sets, func(rs *appsv1.ReplicaSet) *metav1.LabelSelector { return rs.Spec.Selector })
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
	rs, err := c.source.get(namespace, name)
	if apierrors.IsNotFound(err) {
		c.pods.Writes.Forget(key)
		return nil
	}
	if err != nil {
		return err
	}
	selector, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
	if err != nil {
		c.log.Error("selector is not valid", "controller", c.source.name, "key", key, "error", err)
		return nil
	}
	settled := c.pods.Settled(rs)
	owned, err := c.pods.Claim(ctx, rs, podcontrol.BySelector(selector))
	if err != nil {
		return err
	}
	var failure error
	if settled {
		failure = c.resize(ctx, rs, owned)
	}
	if err := c.writeStatus(ctx, key, rs, owned, failure); err != nil {
		return err
	}
	return failure
}

func (c *Controller) resize(ctx context.Context, rs *appsv1.ReplicaSet, owned []*corev1.Pod) error {
	related, err := c.relatedPods(rs)
	if err != nil {
		return err
	}
	todo, origin := plan(rs, owned, related, c.pods.Now()), c.source.origin(rs)
	if todo.create > 0 {
		_, err := podcontrol.SlowStart(todo.create, func(int) error {
			return c.pods.Create(ctx, origin, c.pods.PodOf(origin, &rs.Spec.Template))
		})
		return err
	}
	return podcontrol.Each(todo.remove, func(pod *corev1.Pod) error { return c.pods.Delete(ctx, origin, pod) })
}

// relatedPods are the pods of all ReplicaSets with the same controller.
func (c *Controller) relatedPods(rs *appsv1.ReplicaSet) ([]*corev1.Pod, error) {
	indexer, owner := c.pods.Pods.GetIndexer(), metav1.GetControllerOfNoCopy(rs)
	if owner == nil {
		return podview.Owned(indexer, rs.UID)
	}
	sets, err := c.source.list(rs.Namespace)
	if err != nil {
		return nil, err
	}
	var pods []*corev1.Pod
	for _, sibling := range sets {
		if o := metav1.GetControllerOfNoCopy(sibling); o == nil || o.UID != owner.UID {
			continue
		}
		more, err := podview.Owned(indexer, sibling.UID)
		if err != nil {
			return nil, err
		}
		pods = append(pods, more...)
	}
	return pods, nil
}

func (c *Controller) writeStatus(ctx context.Context, key string, rs *appsv1.ReplicaSet, owned []*corev1.Pod, failure error) error {
	var why trouble
	why.reason, why.message = podcontrol.Trouble(failure)
	status, again := statusOf(rs, owned, why, c.pods.Now())
	if again > 0 {
		c.loop.AddAfter(key, again)
	}
	if !changed(rs, status) {
		return nil
	}
	return c.source.writeStatus(ctx, rs, status)
}
