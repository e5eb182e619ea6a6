// Package quota tells how much of what a ResourceQuota bounds an object uses, for
// the library's admission plugin: pods by what they ask for, claims by size and
// class, Services by their ports, all else by number.
//
// Everything here is called by any number of goroutines. Only apiserver/admission
// imports it.
package quota

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/admission"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	"k8s.io/client-go/kubernetes"
)

// ignored are never counted: what is not stored, and events. Upstream's list.
var ignored = map[schema.GroupResource]struct{}{
	{Resource: "bindings"}:                                                 {},
	{Resource: "componentstatuses"}:                                        {},
	{Group: "authentication.k8s.io", Resource: "tokenreviews"}:             {},
	{Group: "authentication.k8s.io", Resource: "selfsubjectreviews"}:       {},
	{Group: "authorization.k8s.io", Resource: "subjectaccessreviews"}:      {},
	{Group: "authorization.k8s.io", Resource: "selfsubjectaccessreviews"}:  {},
	{Group: "authorization.k8s.io", Resource: "localsubjectaccessreviews"}: {},
	{Group: "authorization.k8s.io", Resource: "selfsubjectrulesreviews"}:   {},
	{Resource: "events"}:                         {},
	{Group: "events.k8s.io", Resource: "events"}: {},
}

// Configuration is what the plugin works with. It counts what others know already
// with client.
func Configuration(client kubernetes.Interface) quota.Configuration {
	evaluators := []quota.Evaluator{pods(client), services(client), claims(client), resourceClaims(client)}
	// These were counted by their bare names before count/RESOURCE came.
	for name, list := range legacy(client) {
		evaluators = append(evaluators, generic.NewObjectCountEvaluator(corev1.Resource(name), list, corev1.ResourceName(name)))
	}
	return generic.NewConfiguration(evaluators, ignored)
}

// evaluator is quota.Evaluator for one kind.
type evaluator struct {
	resource    schema.GroupResource
	list        generic.ListFuncByNamespace
	handles     func(a admission.Attributes) bool
	matches     func(name corev1.ResourceName) bool // besides count/RESOURCE
	scope       generic.MatchesScopeFunc
	usage       func(obj runtime.Object) (corev1.ResourceList, error)
	constraints func(required []corev1.ResourceName, obj runtime.Object) error
}

var _ quota.Evaluator = &evaluator{}

// Constraints implements quota.Evaluator.
func (e *evaluator) Constraints(required []corev1.ResourceName, item runtime.Object) error {
	if e.constraints == nil {
		return nil
	}
	return e.constraints(required, item)
}

// GroupResource implements quota.Evaluator.
func (e *evaluator) GroupResource() schema.GroupResource { return e.resource }

// Handles implements quota.Evaluator.
func (e *evaluator) Handles(a admission.Attributes) bool { return e.handles(a) }

// Matches implements quota.Evaluator.
func (e *evaluator) Matches(q *corev1.ResourceQuota, item runtime.Object) (bool, error) {
	return generic.Matches(q, item, e.MatchingResources, e.scope)
}

// MatchingResources implements quota.Evaluator.
func (e *evaluator) MatchingResources(input []corev1.ResourceName) []corev1.ResourceName {
	out := []corev1.ResourceName{}
	for _, name := range input {
		if name == count(e.resource) || e.matches(name) {
			out = append(out, name)
		}
	}
	return out
}

// MatchingScopes implements quota.Evaluator.
func (e *evaluator) MatchingScopes(item runtime.Object, selectors []corev1.ScopedResourceSelectorRequirement) ([]corev1.ScopedResourceSelectorRequirement, error) {
	out := []corev1.ScopedResourceSelectorRequirement{}
	for _, selector := range selectors {
		ok, err := e.scope(selector, item)
		if err != nil {
			return nil, fmt.Errorf("error on matching scope %v: %w", selector, err)
		}
		if ok {
			out = append(out, selector)
		}
	}
	return out, nil
}

// UncoveredQuotaScopes implements quota.Evaluator.
func (e *evaluator) UncoveredQuotaScopes(limited, matched []corev1.ScopedResourceSelectorRequirement) ([]corev1.ScopedResourceSelectorRequirement, error) {
	covered := map[corev1.ResourceQuotaScope]bool{}
	for _, m := range matched {
		covered[m.ScopeName] = true
	}
	out := []corev1.ScopedResourceSelectorRequirement{}
	for _, l := range limited {
		if !covered[l.ScopeName] {
			out = append(out, l)
		}
	}
	return out, nil
}

// Usage implements quota.Evaluator.
func (e *evaluator) Usage(item runtime.Object) (corev1.ResourceList, error) {
	used, err := e.usage(item)
	if err == nil {
		used[count(e.resource)] = one
	}
	return used, err
}

// UsageStats implements quota.Evaluator.
func (e *evaluator) UsageStats(options quota.UsageStatsOptions) (quota.UsageStats, error) {
	return generic.CalculateUsageStats(options, e.list, e.scope, e.Usage)
}

var one = resource.MustParse("1")

func count(r schema.GroupResource) corev1.ResourceName {
	return generic.ObjectCountQuotaResourceNameFor(r)
}

func created(a admission.Attributes) bool {
	return a.GetSubresource() == "" && a.GetOperation() == admission.Create
}

func written(a admission.Attributes) bool {
	return a.GetSubresource() == "" && (a.GetOperation() == admission.Create || a.GetOperation() == admission.Update)
}

// selector turns a scope's requirement into one on labels, the scope as the key.
func selector(r corev1.ScopedResourceSelectorRequirement) (labels.Selector, error) {
	op, ok := map[corev1.ScopeSelectorOperator]selection.Operator{
		corev1.ScopeSelectorOpIn: selection.In, corev1.ScopeSelectorOpNotIn: selection.NotIn,
		corev1.ScopeSelectorOpExists: selection.Exists, corev1.ScopeSelectorOpDoesNotExist: selection.DoesNotExist,
	}[r.Operator]
	if !ok {
		return nil, fmt.Errorf("%q is not a valid scope selector operator", r.Operator)
	}
	requirement, err := labels.NewRequirement(string(r.ScopeName), op, r.Values)
	if err != nil {
		return nil, fmt.Errorf("failed to parse and convert selector: %w", err)
	}
	return labels.NewSelector().Add(*requirement), nil
}

// native are the resources that Kubernetes itself names.
func native(name corev1.ResourceName) bool {
	return !strings.Contains(string(name), "/") || strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix)
}
