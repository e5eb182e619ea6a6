// Package daemonset keeps one pod of each DaemonSet on every node it fits: on nodes
// that join, off nodes it must leave, replaced node by node when the template changes.
//
// plan.go and fit.go decide and are pure; controller.go does. Several workers run, a
// set is handled by one at a time. Only controllers imports this package.
package daemonset

import (
	"context"
	"errors"
	"log/slog"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/utils/ptr"

	"kontiki/controllers/history"
	"kontiki/controllers/loop"
	"kontiki/controllers/pending"
	"kontiki/controllers/podcontrol"
)

// Name is the controller's name in logs; Component is the source of its events.
const (
	Name      = "daemonset"
	Component = "daemonset-controller"
	workers   = 2
)

// Pause before a failed pod of a node is replaced; it doubles while they keep failing.
const (
	firstPause = time.Second
	lastPause  = 15 * time.Minute
)

var kind = appsv1.SchemeGroupVersion.WithKind("DaemonSet")

// Controller keeps DaemonSets.
type Controller struct {
	client    kubernetes.Interface
	events    record.EventRecorder
	log       *slog.Logger
	informers map[string]cache.SharedIndexInformer
	sets      appslisters.DaemonSetLister
	nodes     corelisters.NodeLister
	pods      *podcontrol.Control
	history   *history.Keeper
	pauses    *flowcontrol.Backoff
	loop      *loop.Loop
}

// New makes the controller on shared informers (the pod informer with
// podview.Indexers).
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger, now func() time.Time) *Controller {
	sets, revisions, nodes := shared.Apps().V1().DaemonSets(), shared.Apps().V1().ControllerRevisions(), shared.Core().V1().Nodes()
	fresh := func(ctx context.Context, namespace, name string) (metav1.Object, error) {
		return client.AppsV1().DaemonSets(namespace).Get(ctx, name, metav1.GetOptions{})
	}
	return &Controller{
		client: client, events: events, log: log,
		informers: map[string]cache.SharedIndexInformer{"sets": sets.Informer(), "revisions": revisions.Informer(), "nodes": nodes.Informer()},
		sets:      sets.Lister(), nodes: nodes.Lister(),
		pods: &podcontrol.Control{
			Kind: kind, Client: client, Pods: shared.Core().V1().Pods().Informer(), Events: events,
			Writes: pending.New(), Now: now, Fresh: fresh,
		},
		history: &history.Keeper{Kind: kind, Client: client, Revisions: revisions.Lister(), Fresh: fresh},
		pauses:  flowcontrol.NewBackOff(firstPause, lastPause),
		loop:    loop.New(Name, log),
	}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	if err := c.loop.OnObject(c.informers["sets"]); err != nil {
		return err
	}
	if err := loop.On(c.loop, c.informers["revisions"], func(_, _ *appsv1.ControllerRevision) {}); err != nil {
		return err
	}
	if err := loop.On(c.loop, c.informers["nodes"], c.nodeChanged); err != nil {
		return err
	}
	err := c.pods.OnPods(c.loop, func(pod *corev1.Pod) []string {
		sets, err := c.sets.DaemonSets(pod.Namespace).List(labels.Everything())
		if err != nil {
			return nil
		}
		return podcontrol.Matching(pod, sets, func(s *appsv1.DaemonSet) *metav1.LabelSelector { return s.Spec.Selector })
	})
	if err != nil {
		return err
	}
	return c.loop.Run(ctx, workers, c.sync)
}

// nodeChanged queues all sets when a node comes, goes, or changes in what decides
// where pods go. A heartbeat does not.
func (c *Controller) nodeChanged(before, after *corev1.Node) {
	if before != nil && after != nil &&
		equality.Semantic.DeepEqual(before.Labels, after.Labels) && equality.Semantic.DeepEqual(before.Spec.Taints, after.Spec.Taints) {
		return
	}
	sets, err := c.sets.List(labels.Everything())
	if err != nil {
		return
	}
	for _, set := range sets {
		c.loop.AddObject(set)
	}
}

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	set, err := c.sets.DaemonSets(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.pods.Writes.Forget(key)
		return nil
	}
	if err != nil {
		return err
	}
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil || selector.Empty() {
		c.events.Eventf(set, corev1.EventTypeWarning, "SelectingAll", "This daemon set is selecting all pods. A non-empty selector is required.")
		return nil
	}
	if !c.pods.Settled(set) {
		return nil // the event that settles it queues the key
	}
	w := world{set: set, now: c.pods.Now()}
	if w.nodes, err = c.nodes.List(labels.Everything()); err != nil {
		return err
	}
	if w.revisions, err = c.history.Owned(ctx, set, selector); err != nil {
		return err
	}
	if w.pods, err = c.pods.Claim(ctx, set, podcontrol.BySelector(selector)); err != nil {
		return err
	}
	todo, err := plan(w)
	if err != nil {
		return err
	}
	if todo.again > 0 {
		c.loop.AddAfter(key, todo.again)
	}
	return c.do(ctx, key, set, todo)
}

func (c *Controller) do(ctx context.Context, key string, set *appsv1.DaemonSet, todo actions) error {
	if err := c.history.Write(ctx, set, todo.revision); err != nil {
		var collision history.ErrCollision
		if errors.As(err, &collision) {
			status := set.Status.DeepCopy()
			status.CollisionCount = ptr.To(ptr.Deref(status.CollisionCount, 0) + 1)
			return c.writeStatus(ctx, set, status)
		}
		return err
	}
	_, failure := podcontrol.SlowStart(len(todo.create), func(i int) error { return c.pods.Create(ctx, set, todo.create[i]) })
	if failure == nil {
		failure = podcontrol.Each(c.due(key, set, todo.remove), func(pod *corev1.Pod) error { return c.pods.Delete(ctx, set, pod) })
	}
	if err := c.history.Drop(ctx, todo.drop); err != nil {
		return err
	}
	if err := c.writeStatus(ctx, set, todo.status); err != nil {
		return err
	}
	return failure
}

// due are the pods to delete now: a node whose pods keep failing is not given a new
// one at once, or the API would see nothing else.
func (c *Controller) due(key string, set *appsv1.DaemonSet, removals []removal) []*corev1.Pod {
	var pods []*corev1.Pod
	for _, r := range removals {
		switch r.ended {
		case corev1.PodFailed:
			id, now := string(set.UID)+"/"+target(r.pod), c.pods.Now()
			if c.pauses.IsInBackOffSinceUpdate(id, now) {
				c.loop.AddAfter(key, c.pauses.Get(id))
				continue
			}
			c.pauses.Next(id, now)
			c.events.Eventf(set, corev1.EventTypeWarning, "FailedDaemonPod", "Found failed daemon pod %s on node %s, will try to kill it", podcontrol.Key(r.pod), target(r.pod))
		case corev1.PodSucceeded:
			c.events.Eventf(set, corev1.EventTypeNormal, "SucceededDaemonPod", "Found succeeded daemon pod %s on node %s, will try to delete it", podcontrol.Key(r.pod), target(r.pod))
		}
		pods = append(pods, r.pod)
	}
	return pods
}

func (c *Controller) writeStatus(ctx context.Context, set *appsv1.DaemonSet, status *appsv1.DaemonSetStatus) error {
	if status == nil {
		return nil
	}
	update := set.DeepCopy()
	update.Status = *status
	_, err := c.client.AppsV1().DaemonSets(set.Namespace).UpdateStatus(ctx, update, metav1.UpdateOptions{})
	return err
}
