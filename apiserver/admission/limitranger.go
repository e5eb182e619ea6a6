package admission

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	helpers "k8s.io/component-helpers/resource"
)

// limitAnnotation tells what was filled in.
const limitAnnotation = "kubernetes.io/limit-ranger"

// limitRanger fills in what containers of a namespace ask for by default, and
// holds pods and claims to the namespace's least and most: upstream's plugin LimitRanger.
type limitRanger struct {
	*admission.Handler
	ranges corelisters.LimitRangeLister
}

func newLimitRanger(shared informers.SharedInformerFactory) *limitRanger {
	ranges := shared.Core().V1().LimitRanges()
	l := &limitRanger{admission.NewHandler(admission.Create, admission.Update), ranges.Lister()}
	l.SetReadyFunc(ranges.Informer().HasSynced)
	return l
}

// Admit implements admission.MutationInterface.
func (l *limitRanger) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, err := newPod(a)
	if pod == nil || err != nil {
		return err
	}
	ranges, err := l.of(a)
	if err != nil {
		return err
	}
	for _, r := range ranges {
		fillIn(pod, r)
	}
	return nil
}

// Validate implements admission.ValidationInterface.
func (l *limitRanger) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	var check func(*corev1.LimitRangeItem) []error
	switch obj := a.GetObject().(type) {
	case *corev1.Pod:
		if !(a.GetOperation() == admission.Create && a.GetSubresource() == "" || a.GetOperation() == admission.Update && a.GetSubresource() == "resize") {
			return nil // nothing else changes resources
		}
		check = func(item *corev1.LimitRangeItem) []error { return checkPod(obj, item) }
	case *corev1.PersistentVolumeClaim:
		if a.GetSubresource() != "" || obj.DeletionTimestamp != nil {
			return nil
		}
		check = func(item *corev1.LimitRangeItem) []error { return checkClaim(obj, item) }
	default:
		return nil
	}
	ranges, err := l.of(a)
	if err != nil {
		return err
	}
	for _, r := range ranges {
		var errs []error
		for i := range r.Spec.Limits {
			errs = append(errs, check(&r.Spec.Limits[i])...)
		}
		if len(errs) > 0 {
			return admission.NewForbidden(a, utilerrors.NewAggregate(errs))
		}
	}
	return nil
}

// of are the ranges of a request's namespace, by name.
func (l *limitRanger) of(a admission.Attributes) ([]*corev1.LimitRange, error) {
	if !l.WaitForReady() {
		return nil, admission.NewForbidden(a, errNotReady)
	}
	ranges, err := l.ranges.LimitRanges(a.GetNamespace()).List(labels.Everything())
	if err != nil {
		return nil, admission.NewForbidden(a, fmt.Errorf("unable to %s %v at this time because there was an error enforcing limit ranges", a.GetOperation(), a.GetResource()))
	}
	ranges = slices.Clone(ranges)
	slices.SortFunc(ranges, func(a, b *corev1.LimitRange) int { return strings.Compare(a.Name, b.Name) })
	return ranges, nil
}

// fillIn gives containers what they do not say of the range's defaults, and notes
// that on the pod.
func fillIn(pod *corev1.Pod, r *corev1.LimitRange) {
	requests, limits := corev1.ResourceList{}, corev1.ResourceList{}
	for _, item := range r.Spec.Limits {
		if item.Type == corev1.LimitTypeContainer {
			maps.Copy(requests, item.DefaultRequest)
			maps.Copy(limits, item.Default)
		}
	}
	var notes []string
	for _, group := range []struct {
		what       string
		containers []corev1.Container
	}{{"container", pod.Spec.Containers}, {"init container", pod.Spec.InitContainers}} {
		for i := range group.containers {
			c := &group.containers[i]
			setLimits, setRequests := withMissing(&c.Resources.Limits, limits), withMissing(&c.Resources.Requests, requests)
			if len(setRequests) > 0 {
				notes = append(notes, fmt.Sprintf("%s request for %s %s", strings.Join(setRequests, ", "), group.what, c.Name))
			}
			if len(setLimits) > 0 {
				notes = append(notes, fmt.Sprintf("%s limit for %s %s", strings.Join(setLimits, ", "), group.what, c.Name))
			}
		}
	}
	if len(notes) > 0 {
		metav1.SetMetaDataAnnotation(&pod.ObjectMeta, limitAnnotation, "LimitRanger plugin set: "+strings.Join(notes, "; "))
	}
}

// withMissing adds to have what is only in defaults, and returns its names.
func withMissing(have *corev1.ResourceList, defaults corev1.ResourceList) []string {
	var set []string
	for name, quantity := range defaults {
		if _, ok := (*have)[name]; ok {
			continue
		}
		if *have == nil {
			*have = corev1.ResourceList{}
		}
		(*have)[name] = quantity.DeepCopy()
		set = append(set, string(name))
	}
	slices.Sort(set)
	return set
}

func checkPod(pod *corev1.Pod, item *corev1.LimitRangeItem) []error {
	var errs []error
	check := func(requests, limits corev1.ResourceList) {
		b := bounds{string(item.Type), requests, limits}
		for _, name := range resourceNames(item.Min) {
			errs = append(errs, b.least(name, item.Min[name]))
		}
		for _, name := range resourceNames(item.Max) {
			errs = append(errs, b.most(name, item.Max[name]))
		}
		for _, name := range resourceNames(item.MaxLimitRequestRatio) {
			errs = append(errs, b.ratio(name, item.MaxLimitRequestRatio[name]))
		}
	}
	switch item.Type {
	case corev1.LimitTypeContainer:
		for _, containers := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
			for i := range containers {
				check(containers[i].Resources.Requests, containers[i].Resources.Limits)
			}
		}
	case corev1.LimitTypePod:
		options := helpers.PodResourcesOptions{ExcludeOverhead: true}
		check(helpers.PodRequests(pod, options), helpers.PodLimits(pod, options))
	}
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}

func checkClaim(claim *corev1.PersistentVolumeClaim, item *corev1.LimitRangeItem) []error {
	if item.Type != corev1.LimitTypePersistentVolumeClaim {
		return nil
	}
	var errs []error
	b := bounds{string(item.Type), claim.Spec.Resources.Requests, claim.Spec.Resources.Limits}
	for _, name := range resourceNames(item.Min) {
		errs = append(errs, b.least(name, item.Min[name]))
	}
	for _, name := range resourceNames(item.Max) {
		errs = append(errs, b.mostRequested(name, item.Max[name]))
	}
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}

func resourceNames(list corev1.ResourceList) []corev1.ResourceName {
	return slices.Sorted(maps.Keys(list))
}

// bounds are compared with what a range allows; the words are upstream's.
type bounds struct {
	of               string
	requests, limits corev1.ResourceList
}

func (b bounds) least(name corev1.ResourceName, least resource.Quantity) error {
	request, ok := b.requests[name]
	if !ok {
		return fmt.Errorf("minimum %s usage per %s is %s.  No request is specified", name, b.of, least.String())
	}
	if request.Cmp(least) < 0 {
		return fmt.Errorf("minimum %s usage per %s is %s, but request is %s", name, b.of, least.String(), request.String())
	}
	if limit, ok := b.limits[name]; ok && limit.Cmp(least) < 0 {
		return fmt.Errorf("minimum %s usage per %s is %s, but limit is %s", name, b.of, least.String(), limit.String())
	}
	return nil
}

func (b bounds) most(name corev1.ResourceName, most resource.Quantity) error {
	limit, ok := b.limits[name]
	if !ok {
		return fmt.Errorf("maximum %s usage per %s is %s.  No limit is specified", name, b.of, most.String())
	}
	if limit.Cmp(most) > 0 {
		return fmt.Errorf("maximum %s usage per %s is %s, but limit is %s", name, b.of, most.String(), limit.String())
	}
	if request, ok := b.requests[name]; ok && request.Cmp(most) > 0 {
		return fmt.Errorf("maximum %s usage per %s is %s, but request is %s", name, b.of, most.String(), request.String())
	}
	return nil
}

// mostRequested is most for what has no limits.
func (b bounds) mostRequested(name corev1.ResourceName, most resource.Quantity) error {
	request, ok := b.requests[name]
	if !ok {
		return fmt.Errorf("maximum %s usage per %s is %s.  No request is specified", name, b.of, most.String())
	}
	if request.Cmp(most) > 0 {
		return fmt.Errorf("maximum %s usage per %s is %s, but request is %s", name, b.of, most.String(), request.String())
	}
	return nil
}

func (b bounds) ratio(name corev1.ResourceName, most resource.Quantity) error {
	request, limit := b.requests[name], b.limits[name]
	says := fmt.Sprintf("%s max limit to request ratio per %s is %s, but ", name, b.of, most.String())
	if request.IsZero() {
		return errors.New(says + "no request is specified or request is 0")
	}
	if limit.IsZero() {
		return errors.New(says + "no limit is specified or limit is 0")
	}
	if is := limit.AsApproximateFloat64() / request.AsApproximateFloat64(); is > most.AsApproximateFloat64() {
		return fmt.Errorf("%sprovided ratio is %f", says, is)
	}
	return nil
}
