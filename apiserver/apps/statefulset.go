package apps

import (
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kontiki/apiserver/core"
	"kontiki/apiserver/kind"
)

func statefulSets() kind.Definition {
	return &kind.Kind[*appsv1.StatefulSet]{
		Resource: "statefulsets", Singular: "statefulset", ShortNames: []string{"sts"}, Categories: []string{"all"},
		New:            func() *appsv1.StatefulSet { return &appsv1.StatefulSet{} },
		NewList:        func() runtime.Object { return &appsv1.StatefulSetList{} },
		Name:           validation.NameIsDNSLabel, // it becomes a part of its pods' host names
		Generation:     func(s *appsv1.StatefulSet) any { return s.Spec },
		Default:        defaultStatefulSet,
		Validate:       func(s *appsv1.StatefulSet) field.ErrorList { return validateStatefulSetSpec(&s.Spec) },
		ValidateUpdate: validateStatefulSetUpdate,
		Warn:           warnStatefulSet,
		Status:         &kind.Status[*appsv1.StatefulSet]{Validate: validateStatefulSetStatus},
		Columns: []metav1.TableColumnDefinition{
			kind.NameColumn,
			kind.Column("Ready", "Number of the pod with ready state"),
			kind.AgeColumn,
			kind.Wide("Containers", "Names of each container in the template."),
			kind.Wide("Images", "Images referenced by each container in the template."),
		},
		Cells: func(s *appsv1.StatefulSet) []any {
			names, images := containersOf(s.Spec.Template.Spec)
			ready := fmt.Sprintf("%d/%d", s.Status.ReadyReplicas, kind.Or(s.Spec.Replicas, 0))
			return []any{s.Name, ready, kind.Age(s.CreationTimestamp), names, images}
		},
		Extend: func(in kind.Storages) (kind.Storages, error) {
			in["statefulsets/scale"] = kind.Scale(in["statefulsets"], func(o runtime.Object) kind.Scaled {
				s := o.(*appsv1.StatefulSet)
				return kind.Scaled{Meta: &s.ObjectMeta, Replicas: &s.Spec.Replicas, Status: s.Status.Replicas, Selector: s.Spec.Selector}
			})
			return in, nil
		},
	}
}

func defaultStatefulSet(o *appsv1.StatefulSet) {
	s := &o.Spec
	core.DefaultPodTemplate(&s.Template)
	for i := range s.VolumeClaimTemplates {
		claim := &s.VolumeClaimTemplates[i]
		core.DefaultPersistentVolumeClaim(claim)
		// Clients that know no Go types want each template to say what it is.
		claim.APIVersion, claim.Kind = corev1.SchemeGroupVersion.String(), "PersistentVolumeClaim"
	}
	kind.SetDefault(&s.PodManagementPolicy, appsv1.OrderedReadyPodManagement)
	if s.UpdateStrategy.Type == "" {
		s.UpdateStrategy.Type = appsv1.RollingUpdateStatefulSetStrategyType
		kind.SetDefaultPtr(&s.UpdateStrategy.RollingUpdate, appsv1.RollingUpdateStatefulSetStrategy{})
	}
	if s.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType && s.UpdateStrategy.RollingUpdate != nil {
		kind.SetDefaultPtr(&s.UpdateStrategy.RollingUpdate.Partition, 0)
		kind.SetDefaultPtr(&s.UpdateStrategy.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
	}
	kind.SetDefaultPtr(&s.PersistentVolumeClaimRetentionPolicy, appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{})
	kind.SetDefault(&s.PersistentVolumeClaimRetentionPolicy.WhenDeleted, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	kind.SetDefault(&s.PersistentVolumeClaimRetentionPolicy.WhenScaled, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	kind.SetDefaultPtr(&s.Replicas, 1)
	kind.SetDefaultPtr(&s.RevisionHistoryLimit, 10)
}

func validateStatefulSetSpec(s *appsv1.StatefulSetSpec) field.ErrorList {
	var errs field.ErrorList
	switch at := spec.Child("podManagementPolicy"); s.PodManagementPolicy {
	case "":
		errs = append(errs, field.Required(at, ""))
	case appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement:
	default:
		errs = append(errs, field.Invalid(at, s.PodManagementPolicy, fmt.Sprintf("must be '%s' or '%s'", appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement)))
	}
	errs = append(errs, validateStatefulSetStrategy(&s.UpdateStrategy, spec.Child("updateStrategy"))...)
	errs = append(errs, validateRetention(s.PersistentVolumeClaimRetentionPolicy, spec.Child("persistentVolumeClaimRetentionPolicy"))...)
	for i := range s.VolumeClaimTemplates {
		errs = append(errs, core.ValidateClaimTemplate(&s.VolumeClaimTemplates[i], spec.Child("volumeClaimTemplates").Index(i))...)
	}
	errs = append(errs, count(kind.Or(s.Replicas, 0), spec.Child("replicas"))...)
	errs = append(errs, count(s.MinReadySeconds, spec.Child("minReadySeconds"))...)
	if s.Ordinals != nil {
		errs = append(errs, count(s.Ordinals.Start, spec.Child("ordinals.start"))...)
	}
	if s.ServiceName != "" {
		errs = append(errs, kind.Invalid(spec.Child("serviceName"), s.ServiceName, utilvalidation.IsDNS1123Label(s.ServiceName))...)
	}
	// The set itself names its pods and gives them volumes.
	template := s.Template.DeepCopy()
	template.Spec.Subdomain, template.Spec.Hostname = "", ""
	template.Spec.Volumes = withClaims(s.VolumeClaimTemplates, template.Spec.Volumes)
	return append(errs, validateSelector(s.Selector, template, "statefulset", "StatefulSet")...)
}

// withClaims are the volumes of a set's pods: its claims, and what else the template
// has under other names.
func withClaims(claims []corev1.PersistentVolumeClaim, volumes []corev1.Volume) []corev1.Volume {
	var out []corev1.Volume
	for _, c := range claims {
		out = append(out, corev1.Volume{Name: c.Name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: c.Name},
		}})
	}
	for _, v := range volumes {
		if !slices.ContainsFunc(claims, func(c corev1.PersistentVolumeClaim) bool { return c.Name == v.Name }) {
			out = append(out, v)
		}
	}
	return out
}

func validateStatefulSetStrategy(s *appsv1.StatefulSetUpdateStrategy, at *field.Path) field.ErrorList {
	rolling := at.Child("rollingUpdate")
	switch s.Type {
	case "":
		return field.ErrorList{field.Required(at, "")}
	case appsv1.OnDeleteStatefulSetStrategyType:
		if s.RollingUpdate != nil {
			return field.ErrorList{field.Invalid(rolling, s.RollingUpdate, fmt.Sprintf("only allowed for updateStrategy '%s'", appsv1.RollingUpdateStatefulSetStrategyType))}
		}
		return nil
	case appsv1.RollingUpdateStatefulSetStrategyType:
		if s.RollingUpdate == nil {
			return nil
		}
	default:
		return field.ErrorList{field.Invalid(at, s, fmt.Sprintf("must be '%s' or '%s'", appsv1.RollingUpdateStatefulSetStrategyType, appsv1.OnDeleteStatefulSetStrategyType))}
	}
	errs := count(kind.Or(s.RollingUpdate.Partition, 0), rolling.Child("partition"))
	if m := s.RollingUpdate.MaxUnavailable; m != nil {
		to := rolling.Child("maxUnavailable")
		errs = append(errs, kind.CountOrPercent(*m, to)...)
		if kind.Amount(*m) == 0 {
			errs = append(errs, field.Invalid(to, *m, "cannot be 0"))
		}
		errs = append(errs, kind.NotMoreThanAll(*m, to)...)
	}
	return errs
}

func validateRetention(p *appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy, at *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	retain, remove := appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	errs := kind.Supported(p.WhenDeleted, at.Child("whenDeleted"), retain, remove)
	return append(errs, kind.Supported(p.WhenScaled, at.Child("whenScaled"), retain, remove)...)
}

func validateStatefulSetUpdate(s, old *appsv1.StatefulSet) field.ErrorList {
	errs := validateStatefulSetSpec(&s.Spec)
	// What may change is put back; then nothing may differ.
	now := s.Spec
	now.Replicas, now.Template, now.UpdateStrategy = old.Spec.Replicas, old.Spec.Template, old.Spec.UpdateStrategy
	now.MinReadySeconds, now.Ordinals, now.RevisionHistoryLimit = old.Spec.MinReadySeconds, old.Spec.Ordinals, old.Spec.RevisionHistoryLimit
	now.PersistentVolumeClaimRetentionPolicy = old.Spec.PersistentVolumeClaimRetentionPolicy
	if !apiequality.Semantic.DeepEqual(now, old.Spec) {
		errs = append(errs, field.Forbidden(spec, "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"))
	}
	return errs
}

func validateStatefulSetStatus(o, old *appsv1.StatefulSet) field.ErrorList {
	at, s := field.NewPath("status"), &o.Status
	errs := kind.Counts(at,
		kind.Count{Name: "replicas", N: int64(s.Replicas)}, kind.Count{Name: "readyReplicas", N: int64(s.ReadyReplicas)},
		kind.Count{Name: "currentReplicas", N: int64(s.CurrentReplicas)}, kind.Count{Name: "updatedReplicas", N: int64(s.UpdatedReplicas)},
		kind.Count{Name: "availableReplicas", N: int64(s.AvailableReplicas)}, kind.Count{Name: "observedGeneration", N: s.ObservedGeneration})
	errs = append(errs, validateCollisions(s.CollisionCount, old.Status.CollisionCount, at.Child("collisionCount"))...)
	for _, v := range []struct {
		name string
		n    int32
	}{
		{"readyReplicas", s.ReadyReplicas}, {"currentReplicas", s.CurrentReplicas},
		{"updatedReplicas", s.UpdatedReplicas}, {"availableReplicas", s.AvailableReplicas},
	} {
		if v.n > s.Replicas {
			errs = append(errs, field.Invalid(at.Child(v.name), v.n, "cannot be greater than status.replicas"))
		}
	}
	if s.AvailableReplicas > s.ReadyReplicas {
		errs = append(errs, field.Invalid(at.Child("availableReplicas"), s.AvailableReplicas, "cannot be greater than status.readyReplicas"))
	}
	return errs
}

// validateCollisions refuses a count of hash collisions that goes back: names
// of revisions that were given would come again.
func validateCollisions(now, old *int32, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if now != nil {
		errs = count(*now, at)
	}
	if old != nil && (now == nil || *now < *old) {
		errs = append(errs, field.Invalid(at, kind.Or(now, 0), "cannot be decremented"))
	}
	return errs
}
