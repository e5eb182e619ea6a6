package apps

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	unversioned "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kontiki/apiserver/core"
	"kontiki/apiserver/kind"
)

var spec = field.NewPath("spec")

func count(v int32, at *field.Path) field.ErrorList {
	return validation.ValidateNonnegativeField(int64(v), at)
}

// validateSelector checks a selector and that the template is selected by it.
func validateSelector(selector *metav1.LabelSelector, template *corev1.PodTemplateSpec, name, title string) field.ErrorList {
	at := spec.Child("selector")
	var errs field.ErrorList
	if selector == nil {
		errs = append(errs, field.Required(at, ""))
	} else {
		errs = append(errs, unversioned.ValidateLabelSelector(selector, unversioned.LabelSelectorValidationOptions{}, at)...)
		if len(selector.MatchLabels)+len(selector.MatchExpressions) == 0 {
			errs = append(errs, field.Invalid(at, selector, "empty selector is invalid for "+name))
		}
	}
	s, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		why := "invalid label selector"
		if name == "statefulset" { // upstream gives no reason for these
			why = ""
		}
		return append(errs, field.Invalid(at, selector, why))
	}
	path := spec.Child("template")
	if !s.Empty() && !s.Matches(labels.Set(template.Labels)) {
		errs = append(errs, field.Invalid(path.Child("metadata", "labels"), template.Labels, "`selector` does not match template `labels`"))
	}
	errs = append(errs, core.ValidatePodTemplate(template, path)...)
	return append(errs, alwaysRestarted(template, path, title)...)
}

// alwaysRestarted refuses pods that end by themselves: they would be replaced
// for ever.
func alwaysRestarted(template *corev1.PodTemplateSpec, path *field.Path, title string) field.ErrorList {
	var errs field.ErrorList
	if template.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		errs = append(errs, field.NotSupported(path.Child("spec", "restartPolicy"), template.Spec.RestartPolicy, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if template.Spec.ActiveDeadlineSeconds != nil {
		errs = append(errs, field.Forbidden(path.Child("spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in "+title+" is not Supported"))
	}
	return errs
}

func validateDeploymentSpec(s *appsv1.DeploymentSpec) field.ErrorList {
	errs := count(*orInt(s.Replicas, 0), spec.Child("replicas"))
	errs = append(errs, validateSelector(s.Selector, &s.Template, "deployment", "ReplicaSet")...)
	errs = append(errs, validateStrategy(&s.Strategy, spec.Child("strategy"))...)
	errs = append(errs, count(s.MinReadySeconds, spec.Child("minReadySeconds"))...)
	if s.RevisionHistoryLimit != nil {
		errs = append(errs, count(*s.RevisionHistoryLimit, spec.Child("revisionHistoryLimit"))...)
	}
	if s.ProgressDeadlineSeconds != nil {
		at := spec.Child("progressDeadlineSeconds")
		errs = append(errs, count(*s.ProgressDeadlineSeconds, at)...)
		if *s.ProgressDeadlineSeconds <= s.MinReadySeconds {
			errs = append(errs, field.Invalid(at, s.ProgressDeadlineSeconds, "must be greater than minReadySeconds"))
		}
	}
	return errs
}

func validateStrategy(s *appsv1.DeploymentStrategy, path *field.Path) field.ErrorList {
	switch s.Type {
	case appsv1.RecreateDeploymentStrategyType:
		if s.RollingUpdate != nil {
			return field.ErrorList{field.Forbidden(path.Child("rollingUpdate"), "may not be specified when strategy `type` is '"+string(appsv1.RecreateDeploymentStrategyType+"'"))}
		}
	case appsv1.RollingUpdateDeploymentStrategyType:
		if s.RollingUpdate == nil {
			return field.ErrorList{field.Required(path.Child("rollingUpdate"), "this should be defaulted and never be nil")}
		}
		return validateRollingUpdate(s.RollingUpdate, path.Child("rollingUpdate"))
	default:
		return field.ErrorList{field.NotSupported(path, s, []appsv1.DeploymentStrategyType{appsv1.RecreateDeploymentStrategyType, appsv1.RollingUpdateDeploymentStrategyType})}
	}
	return nil
}

func validateRollingUpdate(r *appsv1.RollingUpdateDeployment, path *field.Path) field.ErrorList {
	unavailable, surge := *orZero(r.MaxUnavailable), *orZero(r.MaxSurge)
	errs := kind.CountOrPercent(unavailable, path.Child("maxUnavailable"))
	errs = append(errs, kind.CountOrPercent(surge, path.Child("maxSurge"))...)
	if kind.Amount(unavailable) == 0 && kind.Amount(surge) == 0 {
		errs = append(errs, field.Invalid(path.Child("maxUnavailable"), unavailable, "may not be 0 when `maxSurge` is 0"))
	}
	return append(errs, kind.NotMoreThanAll(unavailable, path.Child("maxUnavailable"))...)
}

func orZero(v *intstr.IntOrString) *intstr.IntOrString {
	if v == nil {
		return &intstr.IntOrString{}
	}
	return v
}

func validateDeploymentUpdate(d, old *appsv1.Deployment) field.ErrorList {
	errs := validateDeploymentSpec(&d.Spec)
	return append(errs, validation.ValidateImmutableField(d.Spec.Selector, old.Spec.Selector, spec.Child("selector"))...)
}

func validateDeploymentStatus(d, old *appsv1.Deployment) field.ErrorList {
	at, s := field.NewPath("status"), &d.Status
	errs := validation.ValidateNonnegativeField(s.ObservedGeneration, at.Child("observedGeneration"))
	for _, v := range []struct {
		n    int32
		name string
	}{
		{s.Replicas, "replicas"}, {s.UpdatedReplicas, "updatedReplicas"}, {s.ReadyReplicas, "readyReplicas"},
		{s.AvailableReplicas, "availableReplicas"}, {s.UnavailableReplicas, "unavailableReplicas"},
	} {
		errs = append(errs, count(v.n, at.Child(v.name))...)
	}
	if s.CollisionCount != nil {
		errs = append(errs, count(*s.CollisionCount, at.Child("collisionCount"))...)
	}
	const tooMany = "cannot be greater than status.replicas"
	if s.UpdatedReplicas > s.Replicas {
		errs = append(errs, field.Invalid(at.Child("updatedReplicas"), s.UpdatedReplicas, tooMany))
	}
	if s.ReadyReplicas > s.Replicas {
		errs = append(errs, field.Invalid(at.Child("readyReplicas"), s.ReadyReplicas, tooMany))
	}
	if s.AvailableReplicas > s.Replicas {
		errs = append(errs, field.Invalid(at.Child("availableReplicas"), s.AvailableReplicas, tooMany))
	}
	if s.AvailableReplicas > s.ReadyReplicas {
		errs = append(errs, field.Invalid(at.Child("availableReplicas"), s.AvailableReplicas, "cannot be greater than readyReplicas"))
	}
	if was := old.Status.CollisionCount; was != nil && (s.CollisionCount == nil || *s.CollisionCount < *was) {
		errs = append(errs, field.Invalid(at.Child("collisionCount"), s.CollisionCount, "cannot be decremented"))
	}
	return errs
}

func validateReplicaSetSpec(s *appsv1.ReplicaSetSpec) field.ErrorList {
	errs := count(*orInt(s.Replicas, 0), spec.Child("replicas"))
	errs = append(errs, count(s.MinReadySeconds, spec.Child("minReadySeconds"))...)
	return append(errs, validateSelector(s.Selector, &s.Template, "deployment", "ReplicaSet")...)
}

func validateReplicaSetUpdate(r, old *appsv1.ReplicaSet) field.ErrorList {
	errs := validateReplicaSetSpec(&r.Spec)
	return append(errs, validation.ValidateImmutableField(r.Spec.Selector, old.Spec.Selector, spec.Child("selector"))...)
}

func validateReplicaSetStatus(r, _ *appsv1.ReplicaSet) field.ErrorList {
	at, s := field.NewPath("status"), &r.Status
	var errs field.ErrorList
	for _, v := range []struct {
		n    int32
		name string
	}{
		{s.Replicas, "replicas"}, {s.FullyLabeledReplicas, "fullyLabeledReplicas"},
		{s.ReadyReplicas, "readyReplicas"}, {s.AvailableReplicas, "availableReplicas"},
	} {
		errs = append(errs, count(v.n, at.Child(v.name))...)
		if v.n > s.Replicas {
			errs = append(errs, field.Invalid(at.Child(v.name), v.n, "cannot be greater than status.replicas"))
		}
	}
	errs = append(errs, validation.ValidateNonnegativeField(s.ObservedGeneration, at.Child("observedGeneration"))...)
	if s.AvailableReplicas > s.ReadyReplicas {
		errs = append(errs, field.Invalid(at.Child("availableReplicas"), s.AvailableReplicas, "cannot be greater than readyReplicas"))
	}
	return errs
}
