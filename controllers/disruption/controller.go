// Package disruption tells how many pods of each PodDisruptionBudget may be evicted;
// the API's eviction takes from that number.
//
// plan.go decides and is pure; controller.go does. A budget is handled by one worker
// at a time. Only controllers imports this package.
package disruption

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	policylisters "k8s.io/client-go/listers/policy/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"kontiki/controllers/loop"
	"kontiki/controllers/scaletarget"
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
	targets *scaletarget.Targets
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
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, targets *scaletarget.Targets, events record.EventRecorder, log *slog.Logger, now func() time.Time) *Controller {
	apps, core, budgets := shared.Apps().V1(), shared.Core().V1(), shared.Policy().V1().PodDisruptionBudgets()
	return &Controller{
		client: client, events: events, now: now, targets: targets,
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
	shares := budget.Spec.MaxUnavailable != nil || budget.Spec.MinAvailable != nil && budget.Spec.MinAvailable.Type == intstr.String
	if shares {
		var alone int
		if w.scale, alone, err = c.expected(ctx, w.pods); err != nil {
			w.unknown = err.Error()
			c.events.Eventf(budget, corev1.EventTypeWarning, "CalculateExpectedPodCountFailed", "Failed to calculate the number of expected pods: %v", err)
		} else if alone > 0 {
			c.events.Eventf(budget, corev1.EventTypeWarning, "UnmanagedPods", "Pods selected by this PodDisruptionBudget (selector: %v) were found to be unmanaged. "+
				"As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. "+
				"To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.", selector)
		}
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

// expected adds up what the controllers of the pods want, each once; alone is how many
// pods have none.
func (c *Controller) expected(ctx context.Context, pods []*corev1.Pod) (sum, alone int, err error) {
	asked := map[types.UID]bool{}
	counted := map[types.UID]bool{}
	for _, pod := range pods {
		owner := metav1.GetControllerOfNoCopy(pod)
		if owner == nil {
			alone++
			continue
		}
		if asked[owner.UID] {
			continue
		}
		asked[owner.UID] = true
		uid, replicas, err := c.owners.replicas(pod.Namespace, owner)
		if errors.Is(err, errNotKnown) {
			uid, replicas, err = c.scaleOf(ctx, pod.Namespace, owner)
		}
		if apierrors.IsNotFound(err) || errors.Is(err, errGone) {
			continue // and its pods will be gone
		}
		if err != nil {
			return 0, 0, fmt.Errorf("found no controllers for pod %q: %w", pod.Name, err)
		}
		if !counted[uid] {
			counted[uid] = true
			sum += int(ptr.Deref(replicas, 1))
		}
	}
	return sum, alone, nil
}

// scaleOf asks the API for the size of an owner of any kind.
func (c *Controller) scaleOf(ctx context.Context, namespace string, owner *metav1.OwnerReference) (types.UID, *int32, error) {
	size, _, err := c.targets.Get(ctx, namespace, owner.APIVersion, owner.Kind, owner.Name)
	switch {
	case apierrors.IsNotFound(err):
		return "", nil, c.whyNoScale(ctx, owner)
	case err != nil:
		return "", nil, err
	case size.UID != owner.UID:
		return "", nil, errGone
	}
	return size.UID, &size.Spec.Replicas, nil
}

// whyNoScale tells an owner that is gone from one of a kind without sizes.
func (c *Controller) whyNoScale(ctx context.Context, owner *metav1.OwnerReference) error {
	resources, err := c.targets.Resources(owner.APIVersion, owner.Kind)
	if err != nil {
		return err
	}
	for _, r := range resources {
		served, err := c.client.Discovery().ServerResourcesForGroupVersionWithContext(ctx, r.GroupVersion().String())
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return err
		}
		if slices.ContainsFunc(served.APIResources, func(s metav1.APIResource) bool { return s.Name == r.Resource+"/scale" }) {
			return errGone
		}
	}
	if len(resources) == 0 {
		return fmt.Errorf("%s does not implement the scale subresource", owner.Kind)
	}
	return fmt.Errorf("%s does not implement the scale subresource", resources[0].GroupResource())
}

// errGone is about owners that are not there any more, or are others of that name.
var errGone = errors.New("the owner is gone")

// errNotKnown is about owners of kinds that no cache holds.
var errNotKnown = errors.New("the kind is not built in")

func (o owners) replicas(namespace string, owner *metav1.OwnerReference) (types.UID, *int32, error) {
	switch owner.Kind + "." + groupOf(owner) {
	case "ReplicaSet.apps":
		rs, err := o.replicaSets.ReplicaSets(namespace).Get(owner.Name)
		if err != nil {
			return "", nil, err
		}
		if rs.UID != owner.UID {
			return "", nil, errGone
		}
		if parent := metav1.GetControllerOfNoCopy(rs); parent != nil && parent.Kind == "Deployment" && groupOf(parent) == "apps" {
			d, err := o.deployments.Deployments(namespace).Get(parent.Name)
			if err != nil {
				return "", nil, err
			}
			if d.UID != parent.UID {
				return "", nil, errGone
			}
			return d.UID, d.Spec.Replicas, nil
		}
		return rs.UID, rs.Spec.Replicas, nil
	case "StatefulSet.apps":
		s, err := o.statefulSets.StatefulSets(namespace).Get(owner.Name)
		if err != nil {
			return "", nil, err
		}
		if s.UID != owner.UID {
			return "", nil, errGone
		}
		return s.UID, s.Spec.Replicas, nil
	case "ReplicationController.":
		rc, err := o.replications.ReplicationControllers(namespace).Get(owner.Name)
		if err != nil {
			return "", nil, err
		}
		if rc.UID != owner.UID {
			return "", nil, errGone
		}
		return rc.UID, rc.Spec.Replicas, nil
	}
	return "", nil, errNotKnown
}

func groupOf(owner *metav1.OwnerReference) string {
	gv, err := schema.ParseGroupVersion(owner.APIVersion)
	if err != nil {
		return owner.APIVersion // names no kind that is known
	}
	return gv.Group
}
