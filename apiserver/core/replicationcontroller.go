package core

import (
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kontiki/apiserver/kind"
)

func replicationControllers() kind.Definition {
	return &kind.Kind[*corev1.ReplicationController]{
		Resource: "replicationcontrollers", Singular: "replicationcontroller", ShortNames: []string{"rc"}, Categories: []string{"all"},
		New:              func() *corev1.ReplicationController { return &corev1.ReplicationController{} },
		NewList:          func() runtime.Object { return &corev1.ReplicationControllerList{} },
		OrphansByDefault: true,
		Generation:       func(r *corev1.ReplicationController) any { return r.Spec },
		Default:          defaultReplicationController,
		Validate:         validateReplicationController,
		Warn:             warnReplicationController,
		Status:           &kind.Status[*corev1.ReplicationController]{Validate: validateReplicationControllerStatus},
		Fields: func(r *corev1.ReplicationController) fields.Set {
			return fields.Set{"status.replicas": strconv.Itoa(int(r.Status.Replicas))}
		},
		Columns: []metav1.TableColumnDefinition{
			kind.NameColumn,
			kind.Number("Desired", corev1.ReplicationControllerSpec{}.SwaggerDoc()["replicas"]),
			kind.Number("Current", corev1.ReplicationControllerStatus{}.SwaggerDoc()["replicas"]),
			kind.Number("Ready", corev1.ReplicationControllerStatus{}.SwaggerDoc()["readyReplicas"]),
			kind.AgeColumn,
			kind.Wide("Containers", "Names of each container in the template."),
			kind.Wide("Images", "Images referenced by each container in the template."),
			kind.Wide("Selector", corev1.ReplicationControllerSpec{}.SwaggerDoc()["selector"]),
		},
		Cells: func(r *corev1.ReplicationController) []any {
			names, images := "", ""
			if r.Spec.Template != nil {
				names, images = containersOf(r.Spec.Template.Spec)
			}
			return []any{
				r.Name, int64(kind.Or(r.Spec.Replicas, 0)), int64(r.Status.Replicas), int64(r.Status.ReadyReplicas),
				kind.Age(r.CreationTimestamp), names, images, labels.FormatLabels(r.Spec.Selector),
			}
		},
		Extend: func(in kind.Storages) (kind.Storages, error) {
			in["replicationcontrollers/scale"] = kind.Scale(in["replicationcontrollers"], func(o runtime.Object) kind.Scaled {
				r := o.(*corev1.ReplicationController)
				return kind.Scaled{
					Meta: &r.ObjectMeta, Replicas: &r.Spec.Replicas, Status: r.Status.Replicas,
					Selector: &metav1.LabelSelector{MatchLabels: r.Spec.Selector},
				}
			})
			return in, nil
		},
	}
}

// containersOf lists names and images of the containers of a template.
func containersOf(s corev1.PodSpec) (names, images string) {
	n, i := make([]string, len(s.Containers)), make([]string, len(s.Containers))
	for k, c := range s.Containers {
		n[k], i[k] = c.Name, c.Image
	}
	return strings.Join(n, ","), strings.Join(i, ",")
}

func defaultReplicationController(r *corev1.ReplicationController) {
	if t := r.Spec.Template; t != nil {
		DefaultPodTemplate(t)
		if len(r.Spec.Selector) == 0 {
			r.Spec.Selector = t.Labels
		}
		if len(r.Labels) == 0 {
			r.Labels = t.Labels
		}
	}
	orPtr(&r.Spec.Replicas, 1)
}

func validateReplicationController(r *corev1.ReplicationController) field.ErrorList {
	spec, s := field.NewPath("spec"), &r.Spec
	errs := nonNegative(int64(s.MinReadySeconds), spec.Child("minReadySeconds"))
	selector := labels.Set(s.Selector).AsSelector()
	if selector.Empty() {
		errs = append(errs, field.Required(spec.Child("selector"), ""))
	}
	// Upstream checks it among its declared rules, after all others.
	replicas := nonNegative(int64(kind.Or(s.Replicas, 0)), spec.Child("replicas"))
	at := spec.Child("template")
	if s.Template == nil {
		return append(append(errs, field.Required(at, "")), replicas...)
	}
	if !selector.Empty() && !selector.Matches(labels.Set(s.Template.Labels)) {
		errs = append(errs, field.Invalid(at.Child("metadata", "labels"), s.Template.Labels, "`selector` does not match template `labels`"))
	}
	errs = append(errs, ValidatePodTemplate(s.Template, at)...)
	if p := s.Template.Spec.RestartPolicy; p != corev1.RestartPolicyAlways {
		errs = append(errs, field.NotSupported(at.Child("spec", "restartPolicy"), p, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if s.Template.Spec.ActiveDeadlineSeconds != nil {
		errs = append(errs, field.Forbidden(at.Child("spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in ReplicationController is not Supported"))
	}
	return append(errs, replicas...)
}

func validateReplicationControllerStatus(r, _ *corev1.ReplicationController) field.ErrorList {
	at, s := field.NewPath("status"), &r.Status
	errs := kind.Counts(at,
		kind.Count{Name: "replicas", N: int64(s.Replicas)}, kind.Count{Name: "fullyLabeledReplicas", N: int64(s.FullyLabeledReplicas)},
		kind.Count{Name: "readyReplicas", N: int64(s.ReadyReplicas)}, kind.Count{Name: "availableReplicas", N: int64(s.AvailableReplicas)},
		kind.Count{Name: "observedGeneration", N: s.ObservedGeneration})
	for _, v := range []kind.Count{
		{Name: "fullyLabeledReplicas", N: int64(s.FullyLabeledReplicas)}, {Name: "readyReplicas", N: int64(s.ReadyReplicas)},
		{Name: "availableReplicas", N: int64(s.AvailableReplicas)},
	} {
		if v.N > int64(s.Replicas) {
			errs = append(errs, field.Invalid(at.Child(v.Name), v.N, "cannot be greater than status.replicas"))
		}
	}
	if s.AvailableReplicas > s.ReadyReplicas {
		errs = append(errs, field.Invalid(at.Child("availableReplicas"), s.AvailableReplicas, "cannot be greater than readyReplicas"))
	}
	return errs
}

func warnReplicationController(c, old *corev1.ReplicationController) []string {
	var out []string
	if old == nil {
		out = kind.WarnOfPodNames(c.Name)
	} else if !kind.SpecChanged(c, old) {
		return nil
	}
	if c.Spec.Template == nil {
		return out
	}
	return append(out, WarnPodTemplate(c.Spec.Template, field.NewPath("spec", "template"))...)
}
