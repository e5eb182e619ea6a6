package core

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/util/dryrun"
	policyclient "k8s.io/client-go/kubernetes/typed/policy/v1"
	"k8s.io/client-go/util/retry"
	"k8s.io/component-helpers/apps/poddisruptionbudget"

	"kontiki/apiserver/kind"
)

// evictionREST takes a pod off its node, if its disruption budget allows that.
//
// The budget's controller says how many pods may go; an eviction takes one from
// that number and writes the pod's name beside it, so that the controller does
// not count the pod as healthy until it has seen the deletion. That write is
// conditional on the budget's version: of two evictions that see the last
// allowed disruption, one gets it.
type evictionREST struct {
	pods    *kind.REST
	status  rest.Updater
	budgets policyclient.PodDisruptionBudgetsGetter
}

var (
	_ rest.NamedCreater             = &evictionREST{}
	_ rest.GroupVersionKindProvider = &evictionREST{}
	_ rest.Scoper                   = &evictionREST{}
)

// maxDisruptedPods bounds the evictions that a budget's controller has not seen yet.
const maxDisruptedPods = 2000

// contention is how long an eviction goes on while others write the same budget or pod.
var contention = wait.Backoff{Steps: 20, Duration: 500 * time.Millisecond, Factor: 1, Jitter: 0.1}

// New implements rest.Storage.
func (*evictionREST) New() runtime.Object { return &policyv1.Eviction{} }

// Destroy implements rest.Storage.
func (*evictionREST) Destroy() {}

// NamespaceScoped implements rest.Scoper.
func (*evictionREST) NamespaceScoped() bool { return true }

// GroupVersionKind implements rest.GroupVersionKindProvider.
func (*evictionREST) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return policyv1.SchemeGroupVersion.WithKind("Eviction")
}

// Create implements rest.NamedCreater.
func (r *evictionREST) Create(ctx context.Context, name string, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	eviction, ok := obj.(*policyv1.Eviction)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a Eviction object: %T", obj))
	}
	if name != eviction.Name {
		return nil, apierrors.NewBadRequest("name in URL does not match name in Eviction object")
	}
	if o := eviction.DeleteOptions; o != nil && o.IgnoreStoreReadErrorWithClusterBreakingPotential != nil && *o.IgnoreStoreReadErrorWithClusterBreakingPotential {
		return nil, apierrors.NewInvalid(policyv1.SchemeGroupVersion.WithKind("Eviction").GroupKind(), name, field.ErrorList{
			field.Invalid(field.NewPath("deleteOptions", "ignoreStoreReadErrorWithClusterBreakingPotential"), true, "can not be set for pod eviction, try after removing the option"),
		})
	}
	deletion, err := deletionOf(eviction, options)
	if err != nil {
		return nil, err
	}
	if validate != nil {
		if err := validate(ctx, eviction.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	pod, gone, err := r.deleteUncounted(ctx, name, deletion)
	if err != nil {
		return nil, err
	}
	if !gone {
		err = r.deleteCounted(ctx, pod, deletion)
	}
	if err != nil {
		return nil, err
	}
	return &metav1.Status{Status: metav1.StatusSuccess}, nil
}

// deletionOf is how the pod is to be deleted. The request's dry run counts for it.
func deletionOf(e *policyv1.Eviction, request *metav1.CreateOptions) (*metav1.DeleteOptions, error) {
	if e.DeleteOptions == nil {
		return &metav1.DeleteOptions{DryRun: request.DryRun}, nil
	}
	deletion := e.DeleteOptions.DeepCopy()
	switch {
	case len(deletion.DryRun) == 0:
		deletion.DryRun = request.DryRun
	case len(request.DryRun) > 0 && !reflect.DeepEqual(request.DryRun, deletion.DryRun):
		return nil, fmt.Errorf("Non-matching dry-run options in request and content: %v and %v", request.DryRun, deletion.DryRun)
	}
	return deletion, nil
}

// deleteUncounted deletes a pod that no budget counts: one that has not begun or
// has ended. Another pod is returned.
func (r *evictionREST) deleteUncounted(ctx context.Context, name string, deletion *metav1.DeleteOptions) (pod *corev1.Pod, gone bool, err error) {
	again := apierrors.IsConflict
	if boundToVersion(deletion) {
		again = func(error) bool { return false }
	}
	err = retry.OnError(contention, again, func() error {
		obj, err := r.pods.Get(ctx, name, &metav1.GetOptions{})
		if err != nil {
			return err
		}
		pod = obj.(*corev1.Pod)
		ended := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed || pod.DeletionTimestamp != nil
		if !ended && pod.Status.Phase != corev1.PodPending {
			return nil
		}
		with := deletion
		if !ended && !boundToVersion(deletion) { // it may begin at any moment, and count then
			with = asSeen(deletion, pod)
		}
		if err := r.delete(ctx, name, with); err != nil {
			return err
		}
		gone = true
		return nil
	})
	return pod, gone, err
}

// deleteCounted deletes a pod that may count for a budget.
func (r *evictionREST) deleteCounted(ctx context.Context, pod *corev1.Pod, deletion *metav1.DeleteOptions) error {
	budgets, err := r.budgetsOf(ctx, pod)
	if err != nil {
		return err
	}
	switch {
	case len(budgets) > 1:
		return &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: 500,
			Message: "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
		}}
	case len(budgets) == 0:
		return r.delete(ctx, pod.Name, deletion)
	}
	budget := &budgets[0]
	if !podReady(pod) && unhealthyMayGo(budget) {
		// It must still be unhealthy when it is deleted.
		err := r.delete(ctx, pod.Name, asSeen(deletion, pod))
		if apierrors.IsConflict(err) && !boundToVersion(deletion) {
			return budgetBusy(budget.Name)
		}
		return err
	}
	if err := r.take(ctx, budget, pod.Name, dryrun.IsDryRun(deletion.DryRun)); err != nil {
		return err
	}
	return r.delete(ctx, pod.Name, deletion)
}

// budgetsOf are the budgets that select the pod. An empty selector selects none here.
func (r *evictionREST) budgetsOf(ctx context.Context, pod *corev1.Pod) ([]policyv1.PodDisruptionBudget, error) {
	list, err := r.budgets.PodDisruptionBudgets(pod.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var out []policyv1.PodDisruptionBudget
	for _, budget := range list.Items {
		selector, err := metav1.LabelSelectorAsSelector(budget.Spec.Selector)
		if err == nil && !selector.Empty() && selector.Matches(labels.Set(pod.Labels)) {
			out = append(out, budget)
		}
	}
	return out, nil
}

// unhealthyMayGo tells whether a pod that is not ready may go without being
// counted: it does not count as healthy anyway.
func unhealthyMayGo(b *policyv1.PodDisruptionBudget) bool {
	if p := b.Spec.UnhealthyPodEvictionPolicy; p != nil && *p == policyv1.AlwaysAllow {
		return true
	}
	return b.Status.CurrentHealthy >= b.Status.DesiredHealthy && b.Status.DesiredHealthy > 0
}

// take takes one disruption from the budget.
func (r *evictionREST) take(ctx context.Context, budget *policyv1.PodDisruptionBudget, pod string, dryRun bool) error {
	client, name := r.budgets.PodDisruptionBudgets(budget.Namespace), budget.Name
	stale := false
	err := retry.RetryOnConflict(contention, func() error {
		if stale {
			var err error
			if budget, err = client.Get(ctx, name, metav1.GetOptions{}); err != nil {
				return err
			}
		}
		stale = true
		next, err := disrupted(budget, pod, metav1.Now())
		if err != nil || dryRun {
			return err
		}
		_, err = client.UpdateStatus(ctx, next, metav1.UpdateOptions{})
		return err
	})
	if apierrors.IsConflict(err) {
		return apierrors.NewTimeoutError(fmt.Sprintf("couldn't update PodDisruptionBudget %q due to conflicts", name), 10)
	}
	return err
}

// disrupted is the budget after one more pod went, or why none may.
func disrupted(b *policyv1.PodDisruptionBudget, pod string, now metav1.Time) (*policyv1.PodDisruptionBudget, error) {
	refuse := func(why, cause string) error {
		err := apierrors.NewForbidden(policyv1.Resource("poddisruptionbudget"), b.Name, errors.New(why))
		return because(err, fmt.Sprintf("The disruption budget %s does not allow evicting pods currently: %s", b.Name, cause))
	}
	switch {
	case b.Status.ObservedGeneration < b.Generation:
		return nil, budgetBusy(b.Name)
	case b.Status.DisruptionsAllowed < 0:
		return nil, refuse("pdb disruptions allowed is negative", "pdb disruptions allowed is negative")
	case len(b.Status.DisruptedPods) > maxDisruptedPods:
		return nil, refuse("DisruptedPods map too big - too many evictions not confirmed by PDB controller",
			"too many pending evictions not confirmed by PDB controller")
	case b.Status.DisruptionsAllowed == 0:
		return nil, budgetSpent(b)
	}
	b = b.DeepCopy()
	b.Status.DisruptionsAllowed--
	if b.Status.DisruptionsAllowed == 0 {
		poddisruptionbudget.UpdateDisruptionAllowedCondition(b)
	}
	if b.Status.DisruptedPods == nil {
		b.Status.DisruptedPods = map[string]metav1.Time{}
	}
	b.Status.DisruptedPods[pod] = now
	return b, nil
}

// budgetBusy asks to come back: the controller has not caught up with the budget.
func budgetBusy(name string) error {
	return tooMany(10, fmt.Sprintf("The disruption budget %s is still being processed by the server.", name))
}

// budgetSpent says what the budget waits for.
func budgetSpent(b *policyv1.PodDisruptionBudget) error {
	why := fmt.Sprintf("The disruption budget %s does not allow evicting pods currently", b.Name)
	c := meta.FindStatusCondition(b.Status.Conditions, policyv1.DisruptionAllowedCondition)
	told := c != nil && c.Status == metav1.ConditionFalse && c.Message != ""
	switch {
	case told && c.Reason == policyv1.SyncFailedReason: // the numbers cannot be trusted then
		why += " because it failed sync: " + c.Message
	case b.Status.CurrentHealthy <= b.Status.DesiredHealthy:
		why = fmt.Sprintf("The disruption budget %s needs %d healthy pods and has %d currently", b.Name, b.Status.DesiredHealthy, b.Status.CurrentHealthy)
	case told:
		why += fmt.Sprintf(" (%s): %s", c.Reason, c.Message)
	}
	return tooMany(0, why)
}

func tooMany(retryAfter int, cause string) error {
	return because(apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", retryAfter), cause)
}

// because tells the budget's part in a refusal.
func because(err *apierrors.StatusError, cause string) error {
	if err.ErrStatus.Details == nil {
		err.ErrStatus.Details = &metav1.StatusDetails{}
	}
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: policyv1.DisruptionBudgetCause, Message: cause})
	return err
}

// delete writes into the pod's status why it goes, and deletes it.
func (r *evictionREST) delete(ctx context.Context, name string, deletion *metav1.DeleteOptions) error {
	if !dryrun.IsDryRun(deletion.DryRun) {
		target := func(_ context.Context, _, existing runtime.Object) (runtime.Object, error) {
			pod := existing.(*corev1.Pod).DeepCopy()
			if err := meets(pod, deletion.Preconditions); err != nil {
				return nil, err
			}
			setPodCondition(&pod.Status, corev1.PodCondition{
				Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue,
				Reason: "EvictionByEvictionAPI", Message: "Eviction API: evicting",
			})
			return pod, nil
		}
		obj, _, err := r.status.Update(ctx, name, rest.DefaultUpdatedObjectInfo(nil, target),
			rest.ValidateAllObjectFunc, rest.ValidateAllObjectUpdateFunc, false, &metav1.UpdateOptions{})
		if err != nil {
			return err
		}
		if boundToVersion(deletion) {
			deletion = asSeen(deletion, obj.(*corev1.Pod))
		}
	}
	_, _, err := r.pods.Delete(ctx, name, rest.ValidateAllObjectFunc, deletion)
	return err
}

func meets(pod *corev1.Pod, p *metav1.Preconditions) error {
	if p == nil {
		return nil
	}
	resource := schema.GroupResource{Resource: "Pod"}
	if p.UID != nil && *p.UID != "" && *p.UID != pod.UID {
		return apierrors.NewConflict(resource, pod.Name, fmt.Errorf("the UID in the precondition (%s) does not match the UID in record (%s). The object might have been deleted and then recreated", *p.UID, pod.UID))
	}
	if p.ResourceVersion != nil && *p.ResourceVersion != "" && *p.ResourceVersion != pod.ResourceVersion {
		return apierrors.NewConflict(resource, pod.Name, fmt.Errorf("the ResourceVersion in the precondition (%s) does not match the ResourceVersion in record (%s). The object might have been modified", *p.ResourceVersion, pod.ResourceVersion))
	}
	return nil
}

func boundToVersion(o *metav1.DeleteOptions) bool {
	return o.Preconditions != nil && o.Preconditions.ResourceVersion != nil
}

// asSeen binds a deletion to the version of the pod that the decision is about.
func asSeen(o *metav1.DeleteOptions, pod *corev1.Pod) *metav1.DeleteOptions {
	o = o.DeepCopy()
	if o.Preconditions == nil {
		o.Preconditions = &metav1.Preconditions{}
	}
	o.Preconditions.ResourceVersion = ptr(pod.ResourceVersion)
	return o
}

// setPodCondition puts c into the status; its time is when its status changed.
func setPodCondition(s *corev1.PodStatus, c corev1.PodCondition) {
	c.LastTransitionTime = metav1.Now()
	for i, old := range s.Conditions {
		if old.Type != c.Type {
			continue
		}
		if old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
		s.Conditions[i] = c
		return
	}
	s.Conditions = append(s.Conditions, c)
}
