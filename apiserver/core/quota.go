package core

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kontiki/apiserver/kind"
)

func resourceQuotas() kind.Definition {
	return &kind.Kind[*corev1.ResourceQuota]{
		Resource: "resourcequotas", Singular: "resourcequota", ShortNames: []string{"quota"},
		New:           func() *corev1.ResourceQuota { return &corev1.ResourceQuota{} },
		Warn:          warnQuota,
		NewList:       func() runtime.Object { return &corev1.ResourceQuotaList{} },
		ReturnDeleted: true,
		Default: func(q *corev1.ResourceQuota) {
			roundResources(q.Spec.Hard)
			roundResources(q.Status.Hard)
			roundResources(q.Status.Used)
		},
		Validate: func(q *corev1.ResourceQuota) field.ErrorList { return validateQuotaSpec(&q.Spec) },
		ValidateUpdate: func(q, old *corev1.ResourceQuota) field.ErrorList {
			errs := validateQuotaSpec(&q.Spec)
			now, was := sets.New(q.Spec.Scopes...), sets.New(old.Spec.Scopes...)
			if !now.Equal(was) {
				errs = append(errs, field.Invalid(field.NewPath("spec", "scopes"), q.Spec.Scopes, validation.FieldImmutableErrorMsg))
			}
			return errs
		},
		Status: &kind.Status[*corev1.ResourceQuota]{Validate: func(q, _ *corev1.ResourceQuota) field.ErrorList {
			at := field.NewPath("status")
			errs := validateQuotaList(q.Status.Hard, at.Child("hard"))
			return append(errs, validateQuotaList(q.Status.Used, at.Child("used"))...)
		}},
		Columns: []metav1.TableColumnDefinition{
			kind.NameColumn,
			kind.Column("Request", "Request represents a minimum amount of cpu/memory that a container may consume."),
			kind.Column("Limit", "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node."),
			kind.AgeColumn,
		},
		Cells: func(q *corev1.ResourceQuota) []any {
			var requests, limits []string
			for _, name := range slices.Sorted(maps.Keys(q.Status.Hard)) {
				used, hard := q.Status.Used[name], q.Status.Hard[name]
				line := fmt.Sprintf("%s: %s/%s", name, used.String(), hard.String())
				if name == corev1.ResourceLimitsCPU || name == corev1.ResourceLimitsMemory {
					limits = append(limits, line)
				} else {
					requests = append(requests, line)
				}
			}
			return []any{q.Name, strings.Join(requests, ", "), strings.Join(limits, ", "), kind.Age(q.CreationTimestamp)}
		},
	}
}

func validateQuotaSpec(s *corev1.ResourceQuotaSpec) field.ErrorList {
	at := field.NewPath("spec")
	errs := validateQuotaList(s.Hard, at.Child("hard"))
	return append(errs, validateQuotaScopes(s, at)...)
}

// standardQuota are resources without a domain in their names that quotas count.
var standardQuota = sets.New(
	corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage,
	corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceRequestsStorage, corev1.ResourceRequestsEphemeralStorage,
	corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceLimitsEphemeralStorage,
	corev1.ResourcePods, corev1.ResourceQuotas, corev1.ResourceServices, corev1.ResourceReplicationControllers,
	corev1.ResourceSecrets, corev1.ResourcePersistentVolumeClaims, corev1.ResourceConfigMaps,
	corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers)

// counted are resources of which there is no half.
var counted = sets.New(
	corev1.ResourcePods, corev1.ResourceQuotas, corev1.ResourceServices, corev1.ResourceReplicationControllers,
	corev1.ResourceSecrets, corev1.ResourcePersistentVolumeClaims, corev1.ResourceConfigMaps,
	corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers)

func validateQuotaList(list corev1.ResourceList, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, name := range slices.Sorted(maps.Keys(list)) {
		to, q := at.Key(string(name)), list[name]
		bad := resourceName(name, to)
		if !strings.Contains(string(name), "/") && !standardQuota.Has(name) && !isHugePages(corev1.ResourceName(strings.TrimPrefix(string(name), "requests."))) {
			bad = append(bad, field.Invalid(to, name, "must be a standard resource for quota"))
		}
		errs = append(errs, bad...)
		errs = append(errs, validateWhole(name, q, counted.Has(name), to)...)
	}
	return errs
}

func validateWhole(name corev1.ResourceName, q resource.Quantity, whole bool, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if q.Sign() < 0 {
		errs = append(errs, field.Invalid(at, q.String(), validation.IsNegativeErrorMsg))
	}
	if (whole || isExtended(name)) && q.MilliValue()%1000 != 0 {
		errs = append(errs, field.Invalid(at, q, "must be an integer"))
	}
	return errs
}

func validateQuotaScopes(s *corev1.ResourceQuotaSpec, at *field.Path) field.ErrorList {
	known := []corev1.ResourceQuotaScope{
		corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeBestEffort,
		corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopePriorityClass, corev1.ResourceQuotaScopeCrossNamespacePodAffinity,
		corev1.ResourceQuotaScopeVolumeAttributesClass,
	}
	var errs field.ErrorList
	scopes := at.Child("scopes")
	for _, scope := range s.Scopes {
		if !slices.Contains(known, scope) {
			errs = append(errs, field.Invalid(scopes, s.Scopes, "unsupported scope"))
		}
		errs = append(errs, validateScoped(s.Hard, scope, scopes, s.Scopes)...)
	}
	errs = append(errs, conflictingScopes(s.Scopes, scopes, s.Scopes)...)
	if s.ScopeSelector == nil {
		return errs
	}
	to := at.Child("scopeSelector", "matchExpressions") // upstream's paths have no index here
	var selected []corev1.ResourceQuotaScope
	for _, r := range s.ScopeSelector.MatchExpressions {
		selected = append(selected, r.ScopeName)
		if !slices.Contains(known, r.ScopeName) {
			errs = append(errs, field.Invalid(to.Child("scopeName"), r.ScopeName, "unsupported scope"))
		}
		errs = append(errs, validateScoped(s.Hard, r.ScopeName, to, s.ScopeSelector)...)
		named := r.ScopeName == corev1.ResourceQuotaScopePriorityClass || r.ScopeName == corev1.ResourceQuotaScopeVolumeAttributesClass
		if slices.Contains(known, r.ScopeName) && !named && r.Operator != corev1.ScopeSelectorOpExists {
			errs = append(errs, field.Invalid(to.Child("operator"), r.Operator, "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity"))
		}
		switch r.Operator {
		case corev1.ScopeSelectorOpIn, corev1.ScopeSelectorOpNotIn:
			if len(r.Values) == 0 {
				errs = append(errs, field.Required(to.Child("values"), "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"))
			}
		case corev1.ScopeSelectorOpExists, corev1.ScopeSelectorOpDoesNotExist:
			if len(r.Values) != 0 {
				errs = append(errs, field.Invalid(to.Child("values"), r.Values, "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"))
			}
		default:
			errs = append(errs, field.Invalid(to.Child("operator"), r.Operator, "not a valid selector operator"))
		}
	}
	return append(errs, conflictingScopes(selected, to, s.Scopes)...)
}

var (
	computeOfPods = sets.New(corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory,
		corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory)
	ofClaims = sets.New(corev1.ResourcePersistentVolumeClaims, corev1.ResourceRequestsStorage)
)

// validateScoped wants a scope to be one of what is counted: of pods, or of claims.
func validateScoped(hard corev1.ResourceList, scope corev1.ResourceQuotaScope, at *field.Path, value any) field.ErrorList {
	var errs field.ErrorList
	for _, name := range slices.Sorted(maps.Keys(hard)) {
		fits := true
		switch scope {
		case corev1.ResourceQuotaScopeBestEffort:
			fits = name == corev1.ResourcePods
		case corev1.ResourceQuotaScopeVolumeAttributesClass:
			fits = ofClaims.Has(name)
		case corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeNotBestEffort,
			corev1.ResourceQuotaScopePriorityClass, corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
			fits = name == corev1.ResourcePods || computeOfPods.Has(name)
		}
		if standardQuota.Has(name) && !fits {
			errs = append(errs, field.Invalid(at, value, "unsupported scope applied to resource"))
		}
	}
	return errs
}

func conflictingScopes(scopes []corev1.ResourceQuotaScope, at *field.Path, value any) field.ErrorList {
	var errs field.ErrorList
	for _, pair := range [][2]corev1.ResourceQuotaScope{
		{corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort},
		{corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating},
	} {
		if slices.Contains(scopes, pair[0]) && slices.Contains(scopes, pair[1]) {
			errs = append(errs, field.Invalid(at, value, "conflicting scopes"))
		}
	}
	return errs
}
