// Package disruption tells how many pods of each PodDisruptionBudget may be evicted;
// the API's eviction takes from that number.
//
// plan.go decides and is pure; controller.go does. A budget is handled by one worker
// at a time. Only controllers imports this package.
package disruption

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	policylisters "k8s.io/client-go/listers/policy/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"kontiki/controllers/loop"
)

// Name is the controller's name in logs; Component is the source of its events.
const (
	Name      = "disruption"
	Component = "controllermanager"
	workers   = 2
)

// Controller keeps the status of budgets.
type Controller struct {
	client  kubernetes.Interface
	events  record.EventRecorder
	now     func() time.Time
	budgets policylisters.PodDisruptionBudgetLister
	pods    corelisters.PodLister
	owners  owners
	loop    *loop.Loop

	budgetInformer, podInformer cache.SharedIndexInformer
	ownerInformers              []cache.SharedIndexInformer
}

// owners answers how many pods a controller wants.
type owners struct {
	deployments  appslisters.DeploymentLister
	replicaSets  appslisters.ReplicaSetLister
	statefulSets appslisters.StatefulSetLister
	replications corelisters.ReplicationControllerLister
}

// New makes the controller on shared informers.
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger, now func() time.Time) *Controller {
	apps, core, budgets := shared.Apps().V1(), shared.Core().V1(), shared.Policy().V1().PodDisruptionBudgets()
	return &Controller{
		client: client, events: events, now: now,
		budgets: budgets.Lister(), pods: core.Pods().Lister(),
		owners:         owners{apps.Deployments().Lister(), apps.ReplicaSets().Lister(), apps.StatefulSets().Lister(), core.ReplicationControllers().Lister()},
		loop:           loop.New(Name, log),
		budgetInformer: budgets.Informer(), podInformer: core.Pods().Informer(),
		ownerInformers: []cache.SharedIndexInformer{
			apps.Deployments().Informer(), apps.ReplicaSets().Informer(), apps.StatefulSets().Informer(), core.ReplicationControllers().Informer(),
		},
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
	})
	if err != nil {
		return err
	}
	for _, informer := range c.ownerInformers { // a new size brings pods, or takes them: their events tell
		if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
			return nil
		}
	}
	return c.loop.Run(ctx, workers, c.sync)
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
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	budget, err := c.budgets.PodDisruptionBudgets(namespace).Get(name)
	if apierrors.IsNotFound(err) {
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
	w.scale, w.unknown = c.owners.scale(w.pods)
	if w.unknown != "" && budget.Spec.MinAvailable == nil {
		c.events.Eventf(budget, corev1.EventTypeWarning, "CalculateExpectedPodCountFailed", "Failed to calculate the number of expected pods: %s", w.unknown)
	}
	status, again := plan(w)
	if again > 0 {
		c.loop.AddAfter(key, again)
	}
	if status == nil {
		return nil
	}
	update := budget.DeepCopy()
	update.Status = *status
	_, err = c.client.PolicyV1().PodDisruptionBudgets(namespace).UpdateStatus(ctx, update, metav1.UpdateOptions{})
	return err
}

// scale adds up what the controllers of the pods want, each once.
func (o owners) scale(pods []*corev1.Pod) (sum int, unknown string) {
	seen := map[types.UID]bool{}
	for _, pod := range pods {
		owner := metav1.GetControllerOfNoCopy(pod)
		if owner == nil {
			return 0, fmt.Sprintf("found no controllers for pod %q", pod.Name)
		}
		uid, replicas, err := o.replicas(pod.Namespace, owner)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return 0, err.Error()
		}
		if !seen[uid] {
			seen[uid] = true
			sum += int(ptr.Deref(replicas, 1))
		}
	}
	return sum, ""
}

func (o owners) replicas(namespace string, owner *metav1.OwnerReference) (types.UID, *int32, error) {
	switch owner.Kind {
	case "ReplicaSet":
		rs, err := o.replicaSets.ReplicaSets(namespace).Get(owner.Name)
		if err != nil {
			return "", nil, err
		}
		if parent := metav1.GetControllerOfNoCopy(rs); parent != nil && parent.Kind == "Deployment" {
			d, err := o.deployments.Deployments(namespace).Get(parent.Name)
			if err != nil {
				return "", nil, err
			}
			return d.UID, d.Spec.Replicas, nil
		}
		return rs.UID, rs.Spec.Replicas, nil
	case "StatefulSet":
		s, err := o.statefulSets.StatefulSets(namespace).Get(owner.Name)
		if err != nil {
			return "", nil, err
		}
		return s.UID, s.Spec.Replicas, nil
	case "ReplicationController":
		rc, err := o.replications.ReplicationControllers(namespace).Get(owner.Name)
		if err != nil {
			return "", nil, err
		}
		return rc.UID, rc.Spec.Replicas, nil
	}
	return "", nil, fmt.Errorf("%s %s has no scale: set minAvailable to a number", owner.Kind, owner.Name)
}
