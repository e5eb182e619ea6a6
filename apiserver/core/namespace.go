package core

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kontiki/apiserver/kind"
)

func namespaces() kind.Definition {
	return &kind.Kind[*corev1.Namespace]{
		Resource: "namespaces", Singular: "namespace", ShortNames: []string{"ns"},
		Cluster:        true,
		New:            func() *corev1.Namespace { return &corev1.Namespace{} },
		NewList:        func() runtime.Object { return &corev1.NamespaceList{} },
		Name:           validation.ValidateNamespaceName,
		ReturnDeleted:  true,
		Default:        defaultNamespace,
		Prepare:        prepareNamespace,
		Validate:       validateNamespace,
		ValidateUpdate: func(*corev1.Namespace, *corev1.Namespace) field.ErrorList { return nil },
		Status:         &kind.Status[*corev1.Namespace]{Validate: validateNamespaceStatus},
		Fields: func(ns *corev1.Namespace) fields.Set {
			return fields.Set{"status.phase": string(ns.Status.Phase)}
		},
		Columns: []metav1.TableColumnDefinition{
			kind.NameColumn,
			kind.Column("Status", "The status of the namespace"),
			kind.AgeColumn,
		},
		Cells: func(ns *corev1.Namespace) []any {
			return []any{ns.Name, string(ns.Status.Phase), kind.Age(ns.CreationTimestamp)}
		},
		DeleteDuringUpdate: func(ns *corev1.Namespace) bool { return len(ns.Spec.Finalizers) == 0 },
		Extend:             extendNamespaces,
	}
}

// defaultNamespace labels a namespace with its name, so that selectors can name it.
func defaultNamespace(ns *corev1.Namespace) {
	if ns.Name == "" {
		return
	}
	if ns.Labels == nil {
		ns.Labels = map[string]string{}
	}
	ns.Labels[corev1.LabelMetadataName] = ns.Name
}

func prepareNamespace(_ context.Context, ns, old *corev1.Namespace) {
	if old != nil {
		ns.Spec.Finalizers = old.Spec.Finalizers
		return
	}
	defaultNamespace(ns) // with generateName the name was not known before
	ns.Status = corev1.NamespaceStatus{Phase: corev1.NamespaceActive}
	// The namespace controller takes it off when the namespace is empty.
	if !slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes) {
		ns.Spec.Finalizers = append(ns.Spec.Finalizers, corev1.FinalizerKubernetes)
	}
}

func validateNamespace(ns *corev1.Namespace) field.ErrorList {
	var errs field.ErrorList
	for _, f := range ns.Spec.Finalizers {
		errs = append(errs, validateFinalizerName(string(f), field.NewPath("spec", "finalizers"))...)
	}
	return errs
}

func validateFinalizerName(name string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, msg := range utilvalidation.IsQualifiedName(name) {
		errs = append(errs, field.Invalid(path, name, msg))
	}
	errs = append(errs, kind.FinalizerName(name, path)...)
	return errs
}

func validateNamespaceStatus(ns, _ *corev1.Namespace) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("status", "Phase")
	if ns.DeletionTimestamp.IsZero() {
		if ns.Status.Phase != corev1.NamespaceActive {
			errs = append(errs, field.Invalid(path, ns.Status.Phase, "may only be 'Active' if `deletionTimestamp` is empty"))
		}
	} else if ns.Status.Phase != corev1.NamespaceTerminating {
		errs = append(errs, field.Invalid(path, ns.Status.Phase, "may only be 'Terminating' if `deletionTimestamp` is not empty"))
	}
	return errs
}

func conflict(resource, name string, err error) error {
	return apierrors.NewConflict(corev1.Resource(resource), name, err)
}
