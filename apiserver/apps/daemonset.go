package apps

import (
	"context"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	unversioned "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kontiki/apiserver/core"
	"kontiki/apiserver/kind"
)

func daemonSets() kind.Definition {
	doc := appsv1.DaemonSetStatus{}.SwaggerDoc()
	return &kind.Kind[*appsv1.DaemonSet]{
		Resource: "daemonsets", Singular: "daemonset", ShortNames: []string{"ds"}, Categories: []string{"all"},
		New:            func() *appsv1.DaemonSet { return &appsv1.DaemonSet{} },
		NewList:        func() runtime.Object { return &appsv1.DaemonSetList{} },
		Generation:     func(d *appsv1.DaemonSet) any { return d.Spec },
		Default:        defaultDaemonSet,
		Prepare:        prepareDaemonSet,
		Validate:       func(d *appsv1.DaemonSet) field.ErrorList { return validateDaemonSetSpec(&d.Spec) },
		ValidateUpdate: validateDaemonSetUpdate,
		Warn:           warnDaemonSet,
		Status:         &kind.Status[*appsv1.DaemonSet]{Validate: validateDaemonSetStatus},
		Columns: []metav1.TableColumnDefinition{
			kind.NameColumn,
			kind.Number("Desired", doc["desiredNumberScheduled"]),
			kind.Number("Current", doc["currentNumberScheduled"]),
			kind.Number("Ready", doc["numberReady"]),
			kind.Number("Up-to-date", doc["updatedNumberScheduled"]),
			kind.Number("Available", doc["numberAvailable"]),
			kind.Column("Node Selector", corev1.PodSpec{}.SwaggerDoc()["nodeSelector"]),
			kind.AgeColumn,
			kind.Wide("Containers", "Names of each container in the template."),
			kind.Wide("Images", "Images referenced by each container in the template."),
			kind.Wide("Selector", appsv1.DaemonSetSpec{}.SwaggerDoc()["selector"]),
		},
		Cells: func(d *appsv1.DaemonSet) []any {
			names, images := containersOf(d.Spec.Template.Spec)
			s := d.Status
			return []any{
				d.Name, int64(s.DesiredNumberScheduled), int64(s.CurrentNumberScheduled), int64(s.NumberReady),
				int64(s.UpdatedNumberScheduled), int64(s.NumberAvailable), labels.FormatLabels(d.Spec.Template.Spec.NodeSelector),
				kind.Age(d.CreationTimestamp), names, images, selectorOf(d.Spec.Selector),
			}
		},
	}
}

func defaultDaemonSet(d *appsv1.DaemonSet) {
	s := &d.Spec
	core.DefaultPodTemplate(&s.Template)
	kind.SetDefault(&s.UpdateStrategy.Type, appsv1.RollingUpdateDaemonSetStrategyType)
	if s.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		kind.SetDefaultPtr(&s.UpdateStrategy.RollingUpdate, appsv1.RollingUpdateDaemonSet{})
		kind.SetDefaultPtr(&s.UpdateStrategy.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
		kind.SetDefaultPtr(&s.UpdateStrategy.RollingUpdate.MaxSurge, intstr.FromInt32(0))
	}
	kind.SetDefaultPtr(&s.RevisionHistoryLimit, 10)
}

// prepareDaemonSet counts changes of the template in the annotation that has
// been doing so since templates had a generation of their own.
func prepareDaemonSet(_ context.Context, d, old *appsv1.DaemonSet) {
	n := int64(1)
	if old != nil {
		n, _ = strconv.ParseInt(old.Annotations[appsv1.DeprecatedTemplateGeneration], 10, 64)
		if !apiequality.Semantic.DeepEqual(d.Spec.Template, old.Spec.Template) {
			n++
		}
	}
	// The map may be shared with the object that is compared with.
	annotations := map[string]string{}
	for k, v := range d.Annotations {
		annotations[k] = v
	}
	annotations[appsv1.DeprecatedTemplateGeneration] = strconv.FormatInt(n, 10)
	d.Annotations = annotations
}

func validateDaemonSetSpec(s *appsv1.DaemonSetSpec) field.ErrorList {
	at, template := spec.Child("selector"), spec.Child("template")
	errs := unversioned.ValidateLabelSelector(s.Selector, unversioned.LabelSelectorValidationOptions{}, at)
	if selector, err := metav1.LabelSelectorAsSelector(s.Selector); err == nil && !selector.Matches(labels.Set(s.Template.Labels)) {
		errs = append(errs, field.Invalid(template.Child("metadata", "labels"), s.Template.Labels, "`selector` does not match template `labels`"))
	}
	if s.Selector != nil && len(s.Selector.MatchLabels)+len(s.Selector.MatchExpressions) == 0 {
		errs = append(errs, field.Invalid(at, s.Selector, "empty selector is invalid for daemonset"))
	}
	errs = append(errs, core.ValidatePodTemplate(&s.Template, template)...)
	errs = append(errs, alwaysRestarted(&s.Template, template, "DaemonSet")...)
	errs = append(errs, count(s.MinReadySeconds, spec.Child("minReadySeconds"))...)
	errs = append(errs, validateDaemonSetStrategy(&s.UpdateStrategy, spec.Child("updateStrategy"))...)
	if s.RevisionHistoryLimit != nil {
		errs = append(errs, count(*s.RevisionHistoryLimit, spec.Child("revisionHistoryLimit"))...)
	}
	return errs
}

func validateDaemonSetStrategy(s *appsv1.DaemonSetUpdateStrategy, at *field.Path) field.ErrorList {
	switch s.Type {
	case appsv1.OnDeleteDaemonSetStrategyType:
		return nil
	case appsv1.RollingUpdateDaemonSetStrategyType:
	default:
		return field.ErrorList{field.NotSupported(at, s, []appsv1.DaemonSetUpdateStrategyType{appsv1.RollingUpdateDaemonSetStrategyType, appsv1.OnDeleteDaemonSetStrategyType})}
	}
	at = at.Child("rollingUpdate")
	if s.RollingUpdate == nil {
		return field.ErrorList{field.Required(at, "")}
	}
	unavailable, surge := *orZero(s.RollingUpdate.MaxUnavailable), *orZero(s.RollingUpdate.MaxSurge)
	errs := kind.CountOrPercent(unavailable, at.Child("maxUnavailable"))
	errs = append(errs, kind.CountOrPercent(surge, at.Child("maxSurge"))...)
	errs = append(errs, kind.NotMoreThanAll(unavailable, at.Child("maxUnavailable"))...)
	errs = append(errs, kind.NotMoreThanAll(surge, at.Child("maxSurge"))...)
	switch hasUnavailable, hasSurge := kind.Amount(unavailable) != 0, kind.Amount(surge) != 0; {
	case hasUnavailable && hasSurge:
		errs = append(errs, field.Invalid(at.Child("maxSurge"), surge, "may not be set when maxUnavailable is non-zero"))
	case !hasUnavailable && !hasSurge:
		errs = append(errs, field.Required(at.Child("maxUnavailable"), "cannot be 0 when maxSurge is 0"))
	}
	return errs
}

func validateDaemonSetUpdate(d, old *appsv1.DaemonSet) field.ErrorList {
	errs := validateDaemonSetSpec(&d.Spec)
	return append(errs, validation.ValidateImmutableField(d.Spec.Selector, old.Spec.Selector, spec.Child("selector"))...)
}

func validateDaemonSetStatus(d, old *appsv1.DaemonSet) field.ErrorList {
	at, s := field.NewPath("status"), &d.Status
	errs := kind.Counts(at,
		kind.Count{Name: "currentNumberScheduled", N: int64(s.CurrentNumberScheduled)},
		kind.Count{Name: "numberMisscheduled", N: int64(s.NumberMisscheduled)},
		kind.Count{Name: "desiredNumberScheduled", N: int64(s.DesiredNumberScheduled)},
		kind.Count{Name: "numberReady", N: int64(s.NumberReady)},
		kind.Count{Name: "observedGeneration", N: s.ObservedGeneration},
		kind.Count{Name: "updatedNumberScheduled", N: int64(s.UpdatedNumberScheduled)},
		kind.Count{Name: "numberAvailable", N: int64(s.NumberAvailable)},
		kind.Count{Name: "numberUnavailable", N: int64(s.NumberUnavailable)})
	return append(errs, validateCollisions(s.CollisionCount, old.Status.CollisionCount, at.Child("collisionCount"))...)
}
