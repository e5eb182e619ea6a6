package core

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kontiki/apiserver/kind"
)

func limitRanges() kind.Definition {
	return &kind.Kind[*corev1.LimitRange]{
		Resource: "limitranges", Singular: "limitrange", ShortNames: []string{"limits"},
		New:      func() *corev1.LimitRange { return &corev1.LimitRange{} },
		NewList:  func() runtime.Object { return &corev1.LimitRangeList{} },
		Default:  defaultLimitRange,
		Validate: validateLimitRange,
		Columns: []metav1.TableColumnDefinition{
			kind.NameColumn,
			{Name: "Created At", Type: "date", Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"]},
		},
		Cells: func(l *corev1.LimitRange) []any {
			return []any{l.Name, l.CreationTimestamp.UTC().Format("2006-01-02T15:04:05Z")}
		},
	}
}

// defaultLimitRange completes what containers get: a maximum is a limit, a
// limit is a request, and so is a minimum.
func defaultLimitRange(l *corev1.LimitRange) {
	for i := range l.Spec.Limits {
		item := &l.Spec.Limits[i]
		for _, list := range []corev1.ResourceList{item.Max, item.Min, item.Default, item.DefaultRequest, item.MaxLimitRequestRatio} {
			roundResources(list)
		}
		if item.Type != corev1.LimitTypeContainer {
			continue
		}
		if item.Default == nil {
			item.Default = corev1.ResourceList{}
		}
		if item.DefaultRequest == nil {
			item.DefaultRequest = corev1.ResourceList{}
		}
		fill(item.Default, item.Max)
		fill(item.DefaultRequest, item.Default)
		fill(item.DefaultRequest, item.Min)
	}
}

func fill(to, from corev1.ResourceList) {
	for name, q := range from {
		if _, ok := to[name]; !ok {
			to[name] = q.DeepCopy()
		}
	}
}

func validateLimitRange(l *corev1.LimitRange) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[corev1.LimitType]()
	limits := field.NewPath("spec", "limits")
	for i := range l.Spec.Limits {
		item, at := &l.Spec.Limits[i], limits.Index(i)
		errs = append(errs, validateLimitType(item.Type, at.Child("type"))...)
		if seen.Has(item.Type) {
			errs = append(errs, field.Duplicate(at.Child("type"), item.Type))
		}
		seen.Insert(item.Type)
		for _, list := range []struct {
			name   string
			values corev1.ResourceList
		}{{"max", item.Max}, {"min", item.Min}} {
			for _, name := range slices.Sorted(maps.Keys(list.values)) {
				errs = append(errs, validateLimitName(item.Type, name, at.Child(list.name).Key(string(name)))...)
			}
		}
		if item.Type == corev1.LimitTypePod {
			if len(item.Default) > 0 {
				errs = append(errs, field.Forbidden(at.Child("default"), "may not be specified when `type` is 'Pod'"))
			}
			if len(item.DefaultRequest) > 0 {
				errs = append(errs, field.Forbidden(at.Child("defaultRequest"), "may not be specified when `type` is 'Pod'"))
			}
		} else {
			for _, name := range slices.Sorted(maps.Keys(item.Default)) {
				errs = append(errs, validateLimitName(item.Type, name, at.Child("default").Key(string(name)))...)
			}
			for _, name := range slices.Sorted(maps.Keys(item.DefaultRequest)) {
				errs = append(errs, validateLimitName(item.Type, name, at.Child("defaultRequest").Key(string(name)))...)
			}
		}
		if item.Type == corev1.LimitTypePersistentVolumeClaim {
			_, hasMin := item.Min[corev1.ResourceStorage]
			_, hasMax := item.Max[corev1.ResourceStorage]
			if !hasMin && !hasMax {
				errs = append(errs, field.Required(at.Child("limits"), "either minimum or maximum storage value is required, but neither was provided"))
			}
		}
		errs = append(errs, validateLimitOrder(item, at)...)
	}
	return errs
}

func validateLimitType(t corev1.LimitType, at *field.Path) field.ErrorList {
	errs := invalidFor(at, t, utilvalidation.IsQualifiedName(string(t)))
	known := t == corev1.LimitTypePod || t == corev1.LimitTypeContainer || t == corev1.LimitTypePersistentVolumeClaim
	if len(errs) == 0 && !known && !strings.Contains(string(t), "/") {
		errs = append(errs, field.Invalid(at, t, "must be a standard limit type or fully qualified"))
	}
	return errs
}

func validateLimitName(t corev1.LimitType, name corev1.ResourceName, at *field.Path) field.ErrorList {
	if t == corev1.LimitTypePod || t == corev1.LimitTypeContainer {
		return validateResource(name, resource.Quantity{}, at)
	}
	return resourceName(name, at)
}

// validateLimitOrder wants min <= default request <= default <= max.
func validateLimitOrder(item *corev1.LimitRangeItem, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[corev1.ResourceName]()
	for _, list := range []corev1.ResourceList{item.Max, item.Min, item.Default, item.DefaultRequest, item.MaxLimitRequestRatio} {
		names.Insert(slices.Collect(maps.Keys(list))...)
	}
	for _, name := range sets.List(names) {
		low, hasMin := item.Min[name]
		high, hasMax := item.Max[name]
		def, hasDefault := item.Default[name]
		request, hasRequest := item.DefaultRequest[name]
		ratio, hasRatio := item.MaxLimitRequestRatio[name]
		order := func(child string, a resource.Quantity, hasA bool, what, than string, b resource.Quantity, hasB bool) {
			if hasA && hasB && a.Cmp(b) > 0 {
				errs = append(errs, field.Invalid(at.Child(child).Key(string(name)), a.String(),
					fmt.Sprintf("%s value %s is greater than %s value %s", what, a.String(), than, b.String())))
			}
		}
		order("min", low, hasMin, "min", "max", high, hasMax)
		order("defaultRequest", low, hasMin && hasRequest, "min", "default request", request, hasRequest)
		order("defaultRequest", request, hasRequest, "default request", "max", high, hasMax)
		order("defaultRequest", request, hasRequest, "default request", "default limit", def, hasDefault)
		order("default", low, hasMin && hasDefault, "min", "default", def, hasDefault)
		if hasDefault && hasMax && def.Cmp(high) > 0 { // upstream shows the maximum as the wrong value here
			errs = append(errs, field.Invalid(at.Child("default").Key(string(name)), high.String(), fmt.Sprintf("default value %s is greater than max value %s", def.String(), high.String())))
		}
		if hasRatio && ratio.Cmp(*resource.NewQuantity(1, resource.DecimalSI)) < 0 {
			errs = append(errs, field.Invalid(at.Child("maxLimitRequestRatio").Key(string(name)), ratio.String(), fmt.Sprintf("ratio %s is less than 1", ratio.String())))
		}
		if hasRatio && hasMin && hasMax {
			r, most := ratio.AsApproximateFloat64(), high.AsApproximateFloat64()/low.AsApproximateFloat64()
			if r > most {
				errs = append(errs, field.Invalid(at.Child("maxLimitRequestRatio").Key(string(name)), ratio.String(), fmt.Sprintf("ratio %s is greater than max/min = %f", ratio.String(), most)))
			}
		}
		if hasDefault && hasRequest && (isExtended(name) || isHugePages(name)) && def.Cmp(request) != 0 {
			errs = append(errs, field.Invalid(at.Child("defaultRequest").Key(string(name)), request.String(), fmt.Sprintf("default value %s must equal to defaultRequest value %s in %s", def.String(), request.String(), name)))
		}
	}
	return errs
}
