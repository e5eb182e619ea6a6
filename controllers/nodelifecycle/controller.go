package nodelifecycle

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"kontiki/controllers/loop"
	"kontiki/controllers/podview"
)

// Name is the controller's name in logs; Component is the source of its events.
const (
	Name      = "nodelifecycle"
	Component = "node-controller"
	// EvictionComponent is the source of the events of evictions, as upstream, where another
	// controller evicts.
	EvictionComponent = "taint-eviction-controller"
	workers           = 4

	// absentGrace is how long a node may be missing from the ring before it counts
	// as unreachable: a new leader, or a node that has just joined, needs a moment.
	absentGrace = 40 * time.Second
	// fallbackToleration is for pods that were made without default tolerations.
	fallbackToleration = 30 * time.Second
)

// Controller keeps conditions and taints of nodes and evicts pods.
type Controller struct {
	client kubernetes.Interface
	events record.EventRecorder
	// evictions are those events that tell of evictions.
	evictions record.EventRecorder
	ring      RingHealth
	log       *slog.Logger
	now       func() time.Time
	began     time.Time // in whole seconds, as the times of objects are

	nodeInformer, podInformer cache.SharedIndexInformer

	nodes corelisters.NodeLister
	loop  *loop.Loop

	mu      sync.Mutex                         // protects both
	absent  map[string]time.Time               // by node: missing from the ring since
	leaving map[string]map[types.UID]departure // by node: pods that tolerate its taints for some time
}

// New makes the controller on shared informers (the pod informer with
// podview.Indexers).
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, ring RingHealth, events, evictions record.EventRecorder, log *slog.Logger, now func() time.Time) *Controller {
	nodes := shared.Core().V1().Nodes()
	return &Controller{
		client: client, events: events, evictions: evictions, ring: ring, log: log.With("controller", Name), now: now,
		nodeInformer: nodes.Informer(), podInformer: shared.Core().V1().Pods().Informer(),
		nodes:   nodes.Lister(),
		loop:    loop.New(Name, log),
		absent:  map[string]time.Time{},
		leaving: map[string]map[types.UID]departure{},
		began:   now().Truncate(time.Second),
	}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	err := loop.On(c.loop, c.nodeInformer, func(before, after *corev1.Node) {
		c.tellNode(before, after)
		if after != nil {
			c.loop.Add(after.Name)
			return
		}
		c.loop.Add(before.Name)
	})
	if err != nil {
		return err
	}
	err = loop.On(c.loop, c.podInformer, func(before, after *corev1.Pod) {
		if after != nil && after.Spec.NodeName != "" && (before == nil || before.Spec.NodeName == "" || before.Generation != after.Generation) {
			c.loop.Add(after.Spec.NodeName)
		}
		if after == nil && c.left(before) {
			c.loop.Add(before.Spec.NodeName)
		}
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var following sync.WaitGroup
	following.Go(func() { c.followRing(ctx) })
	defer following.Wait()
	defer cancel()
	return c.loop.Run(ctx, workers, c.sync)
}

// tellNode has upstream's events for Nodes that come and go. Those that were there before
// this controller are known: each leader would greet all of them again.
func (c *Controller) tellNode(before, after *corev1.Node) {
	switch {
	case before == nil && !after.CreationTimestamp.Time.Before(c.began):
		c.tellOf(after, "RegisteredNode", "Registered Node "+after.Name+" in Controller")
	case after == nil:
		c.tellOf(before, "RemovingNode", "Removing Node "+before.Name+" from Controller")
	}
}

func (c *Controller) tellOf(node *corev1.Node, reason, what string) {
	ref := &corev1.ObjectReference{Kind: "Node", Name: node.Name, UID: node.UID}
	c.events.Eventf(ref, corev1.EventTypeNormal, reason, "Node %s event: %s", node.Name, what)
}

// followRing looks at all nodes whenever the ring has changed.
func (c *Controller) followRing(ctx context.Context) {
	changed, stop := c.ring.Watch()
	defer stop()
	for {
		select {
		case <-ctx.Done():
			return
		case _, ok := <-changed:
			if !ok {
				return
			}
		}
		nodes, err := c.nodes.List(labels.Everything())
		if err != nil {
			continue // the cache is not filled yet; each node will have its event
		}
		for _, node := range nodes {
			c.loop.Add(node.Name)
		}
	}
}

func (c *Controller) sync(ctx context.Context, name string) error {
	node, err := c.nodes.Get(name)
	if apierrors.IsNotFound(err) {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.absent, name)
		delete(c.leaving, name)
		return nil
	}
	if err != nil {
		return err
	}
	v := c.verdict(node)
	now := c.now()
	conditions := conditionsOf(node, v, now)
	if !sameConditions(node.Status.Conditions, conditions) {
		if err := c.writeConditions(ctx, node, conditions); err != nil {
			return err
		}
	}
	taints := taintsOf(node, conditions, now)
	if !sameTaints(node.Spec.Taints, taints) {
		if err := c.writeTaints(ctx, node, taints); err != nil {
			return err
		}
	}
	pods, err := podview.Indexed(c.podInformer.GetIndexer(), podview.ByNode, name)
	if err != nil {
		return err
	}
	if v == unreachable {
		if err := c.markNotReady(ctx, pods, now); err != nil {
			return err
		}
	}
	return c.evict(ctx, name, pods, taints)
}

func (c *Controller) verdict(node *corev1.Node) verdict {
	member, known := c.ring.Member(node.Name)
	c.mu.Lock()
	defer c.mu.Unlock()
	if known {
		delete(c.absent, node.Name)
		return judge(member, true, time.Time{}, c.now(), absentGrace)
	}
	since, ok := c.absent[node.Name]
	if !ok {
		since = c.now()
		c.absent[node.Name] = since
	}
	v := judge(member, false, since, c.now(), absentGrace)
	if v == leaveAlone {
		c.loop.AddAfter(node.Name, since.Add(absentGrace).Sub(c.now()))
	}
	return v
}

func (c *Controller) writeConditions(ctx context.Context, node *corev1.Node, conditions []corev1.NodeCondition) error {
	update := node.DeepCopy()
	update.Status.Conditions = conditions
	if _, err := c.client.CoreV1().Nodes().UpdateStatus(ctx, update, metav1.UpdateOptions{}); err != nil {
		return err
	}
	before, after := status(node.Status.Conditions, corev1.NodeReady), status(conditions, corev1.NodeReady)
	if before == after {
		return nil
	}
	word := "NodeNotReady"
	if after == corev1.ConditionTrue {
		word = "NodeReady"
	}
	c.log.Info("node changed by the ring", "node", node.Name, "ready", string(after))
	c.events.Eventf(node, corev1.EventTypeNormal, word, "Node %s status is now: %s", node.Name, word)
	return nil
}

// writeTaints replaces the taints of exactly the node that was read but for its
// status: a taint that a user adds meanwhile must not be lost.
func (c *Controller) writeTaints(ctx context.Context, node *corev1.Node, taints []corev1.Taint) error {
	fresh, err := c.client.CoreV1().Nodes().Get(ctx, node.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if fresh.UID != node.UID || !sameTaints(fresh.Spec.Taints, node.Spec.Taints) {
		return apierrors.NewConflict(corev1.Resource("nodes"), node.Name, errors.New("its taints were changed meanwhile"))
	}
	fresh.Spec.Taints = taints
	_, err = c.client.CoreV1().Nodes().Update(ctx, fresh, metav1.UpdateOptions{})
	return err
}

// markNotReady takes the pods of an unreachable node out of their Services. Their
// agent puts its own word back when it is in reach again.
func (c *Controller) markNotReady(ctx context.Context, pods []*corev1.Pod, now time.Time) error {
	var failures []error
	for _, pod := range pods {
		ready := podview.Condition(pod, corev1.PodReady)
		if ready == nil || ready.Status != corev1.ConditionTrue {
			continue
		}
		c.events.Eventf(pod, corev1.EventTypeWarning, "NodeNotReady", "Node is not ready")
		condition := *ready
		condition.Status, condition.LastTransitionTime = corev1.ConditionFalse, metav1.NewTime(now)
		failures = append(failures, c.patchCondition(ctx, pod, condition))
	}
	return errors.Join(failures...)
}

func (c *Controller) patchCondition(ctx context.Context, pod *corev1.Pod, condition corev1.PodCondition) error {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID},
		"status":   map[string]any{"conditions": []corev1.PodCondition{condition}},
	})
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// evict deletes the pods whose patience has ended, and comes back for the next.
func (c *Controller) evict(ctx context.Context, node string, pods []*corev1.Pod, taints []corev1.Taint) error {
	c.mu.Lock()
	before := c.leaving[node]
	c.mu.Unlock()
	e := evictionsOf(pods, taints, before, fallbackToleration, c.now())
	for _, d := range e.cancelled {
		ref := &corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: d.pod.Namespace, Name: d.pod.Name, UID: d.uid}
		c.evictions.Eventf(ref, corev1.EventTypeNormal, "TaintManagerEviction", "Cancelling deletion of Pod %s", d.pod)
	}
	c.mu.Lock()
	if c.leaving[node] = e.later; len(e.later) == 0 {
		delete(c.leaving, node)
	}
	c.mu.Unlock()
	if e.again > 0 {
		c.loop.AddAfter(node, e.again)
	}
	var failures []error
	for _, pod := range e.due {
		failures = append(failures, c.remove(ctx, pod))
	}
	return errors.Join(failures...)
}

// left says whether a pod is gone that was to leave its node later.
func (c *Controller) left(pod *corev1.Pod) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, planned := c.leaving[pod.Spec.NodeName][pod.UID]
	return planned
}

func (c *Controller) remove(ctx context.Context, pod *corev1.Pod) error {
	c.evictions.Eventf(pod, corev1.EventTypeNormal, "TaintManagerEviction", "Marking for deletion Pod %s/%s", pod.Namespace, pod.Name)
	err := c.patchCondition(ctx, pod, corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByTaintManager",
		Message: "Taint manager: deleting due to NoExecute taint", LastTransitionTime: metav1.NewTime(c.now()),
	})
	if err != nil {
		return err
	}
	err = c.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, *metav1.NewPreconditionDeleteOptions(string(pod.UID)))
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}
