// Package disruption tells how many pods of each PodDisruptionBudget may be evicted;
// the API's eviction takes from that number.
//
// plan.go and claim.go decide and are pure; controller.go does, owners.go asks. A budget
// is handled by one worker at a time. Only controllers imports this package.
package disruption

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	policylisters "k8s.io/client-go/listers/policy/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"kontiki/controllers/loop"
	"kontiki/controllers/scaletarget"
)

// Name is the controller's name in logs; Component is the source of its events.
const (
	Name      = "disruption"
	Component = "controllermanager"
	workers   = 2
	// podKey begins the keys of pods; those of budgets are namespace/name.
	podKey = "pod:"
)

// Controller keeps the status of budgets.
type Controller struct {
	client  kubernetes.Interface
	events  record.EventRecorder
	now     func() time.Time
	budgets policylisters.PodDisruptionBudgetLister
	pods    corelisters.PodLister
	owners  owners
	targets *scaletarget.Targets
	loop    *loop.Loop

	budgetInformer, podInformer cache.SharedIndexInformer
	replicaSets, statefulSets   cache.SharedIndexInformer
	deployments, replications   cache.SharedIndexInformer

	mu      sync.Mutex // protects unknown
	unknown map[string]struct{}
}

// New makes the controller on shared informers.
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, targets *scaletarget.Targets, events record.EventRecorder, log *slog.Logger, now func() time.Time) *Controller {
	apps, core, budgets := shared.Apps().V1(), shared.Core().V1(), shared.Policy().V1().PodDisruptionBudgets()
	return &Controller{
		client: client, events: events, now: now, targets: targets,
		budgets: budgets.Lister(), pods: core.Pods().Lister(),
		owners:         owners{apps.Deployments().Lister(), apps.ReplicaSets().Lister(), apps.StatefulSets().Lister(), core.ReplicationControllers().Lister()},
		loop:           loop.New(Name, log),
		budgetInformer: budgets.Informer(), podInformer: core.Pods().Informer(),
		replicaSets: apps.ReplicaSets().Informer(), statefulSets: apps.StatefulSets().Informer(),
		deployments: apps.Deployments().Informer(), replications: core.ReplicationControllers().Informer(),
		unknown: map[string]struct{}{},
	}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	err := loop.On(c.loop, c.budgetInformer, func(_, after *policyv1.PodDisruptionBudget) {
		if after != nil {
			c.loop.AddObject(after)
		}
	})
	if err != nil {
		return err
	}
	err = loop.On(c.loop, c.podInformer, func(before, after *corev1.Pod) {
		for _, pod := range []*corev1.Pod{before, after} {
			if pod != nil {
				c.podChanged(pod)
			}
		}
		if after != nil {
			if wait, claims := claimsToGo(after, c.now()); claims {
				c.loop.AddAfter(podKey+after.Namespace+"/"+after.Name, wait)
			}
		}
	})
	if err != nil {
		return err
	}
	// A new size brings pods, or takes them: their events tell.
	err = errors.Join(
		loop.On(c.loop, c.deployments, func(before, after *appsv1.Deployment) { c.ownerChanged(before == nil, after) }),
		loop.On(c.loop, c.replicaSets, func(before, after *appsv1.ReplicaSet) { c.ownerChanged(before == nil, after) }),
		loop.On(c.loop, c.statefulSets, func(before, after *appsv1.StatefulSet) { c.ownerChanged(before == nil, after) }),
		loop.On(c.loop, c.replications, func(before, after *corev1.ReplicationController) { c.ownerChanged(before == nil, after) }),
	)
	if err != nil {
		return err
	}
	return c.loop.Run(ctx, workers, c.sync)
}

// ownerChanged looks again at the budgets of a namespace that lack a controller, when one
// has come.
func (c *Controller) ownerChanged(came bool, owner metav1.Object) {
	if !came {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for key := range c.unknown {
		if strings.HasPrefix(key, owner.GetNamespace()+"/") {
			c.loop.Add(key)
		}
	}
}

// lacks takes note of whether a budget lacks a controller of its pods.
func (c *Controller) lacks(key string, any bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if any {
		c.unknown[key] = struct{}{}
	} else {
		delete(c.unknown, key)
	}
}

func (c *Controller) podChanged(pod *corev1.Pod) {
	budgets, err := c.budgets.PodDisruptionBudgets(pod.Namespace).List(labels.Everything())
	if err != nil {
		return
	}
	for _, b := range budgets {
		if selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector); err == nil && selector.Matches(labels.Set(pod.Labels)) {
			c.loop.AddObject(b)
		}
	}
}

func (c *Controller) sync(ctx context.Context, key string) error {
	if pod, ok := strings.CutPrefix(key, podKey); ok {
		return c.syncPod(ctx, pod)
	}
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	budget, err := c.budgets.PodDisruptionBudgets(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.lacks(key, false)
		return nil
	}
	if err != nil {
		return err
	}
	selector, err := metav1.LabelSelectorAsSelector(budget.Spec.Selector)
	if err != nil {
		return nil // the API has refused such a budget
	}
	w := world{budget: budget, now: c.now()}
	if w.pods, err = c.pods.Pods(namespace).List(selector); err != nil {
		return err
	}
	if len(w.pods) == 0 {
		c.events.Eventf(budget, corev1.EventTypeNormal, "NoPods", "No matching pods found")
	}
	var uncounted error
	if shares(budget) {
		c.lacks(key, true) // one that comes while it is looked for must not be missed
		uncounted = c.measure(ctx, &w)
	}
	c.lacks(key, uncounted != nil)
	todo := plan(w)
	for _, pod := range todo.overdue {
		c.events.Eventf(pod, corev1.EventTypeWarning, "NotDeleted", "Pod was expected by PDB %s/%s to be deleted but it wasn't", namespace, name)
	}
	if todo.again > 0 {
		c.loop.AddAfter(key, todo.again)
	}
	if todo.status != nil {
		update := budget.DeepCopy()
		update.Status = *todo.status
		if _, err = c.client.PolicyV1().PodDisruptionBudgets(namespace).UpdateStatus(ctx, update, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	if errors.Is(uncounted, errGone) {
		return nil // events tell of pods and controllers that come
	}
	return uncounted // of a kind that is not served, or of an API that does not answer, none does
}

// measure finds out of how many pods a share is a share.
func (c *Controller) measure(ctx context.Context, w *world) error {
	sum, alone, err := c.expected(ctx, w.pods)
	switch {
	case err != nil:
		w.unknown = err.Error()
		c.events.Eventf(w.budget, corev1.EventTypeWarning, "CalculateExpectedPodCountFailed", "Failed to calculate the number of expected pods: %v", err)
	case alone > 0:
		c.events.Eventf(w.budget, corev1.EventTypeWarning, "UnmanagedPods", "Pods selected by this PodDisruptionBudget (selector: %v) were found to be unmanaged. "+
			"As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. "+
			"To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.", w.budget.Spec.Selector)
	}
	w.scale = sum
	return err
}
