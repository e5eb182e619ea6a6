package apps

import (
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kontiki/apiserver/core"
	"kontiki/apiserver/kind"
)

func replicaSets() kind.Definition {
	return &kind.Kind[*appsv1.ReplicaSet]{
		Resource: "replicasets", Singular: "replicaset", ShortNames: []string{"rs"}, Categories: []string{"all"},
		New:            func() *appsv1.ReplicaSet { return &appsv1.ReplicaSet{} },
		NewList:        func() runtime.Object { return &appsv1.ReplicaSetList{} },
		Generation:     func(r *appsv1.ReplicaSet) any { return r.Spec },
		Default:        defaultReplicaSet,
		Validate:       func(r *appsv1.ReplicaSet) field.ErrorList { return validateReplicaSetSpec(&r.Spec) },
		ValidateUpdate: validateReplicaSetUpdate,
		Warn:           warnReplicaSet,
		Status: &kind.Status[*appsv1.ReplicaSet]{
			Validate: validateReplicaSetStatus,
		},
		Columns: []metav1.TableColumnDefinition{
			kind.NameColumn,
			kind.Number("Desired", appsv1.ReplicaSetSpec{}.SwaggerDoc()["replicas"]),
			kind.Number("Current", appsv1.ReplicaSetStatus{}.SwaggerDoc()["replicas"]),
			kind.Number("Ready", appsv1.ReplicaSetStatus{}.SwaggerDoc()["readyReplicas"]),
			kind.AgeColumn,
			kind.Wide("Containers", "Names of each container in the template."),
			kind.Wide("Images", "Images referenced by each container in the template."),
			kind.Wide("Selector", appsv1.ReplicaSetSpec{}.SwaggerDoc()["selector"]),
		},
		Cells: func(r *appsv1.ReplicaSet) []any {
			names, images := containersOf(r.Spec.Template.Spec)
			return []any{
				r.Name, int64(*orInt(r.Spec.Replicas, 0)), int64(r.Status.Replicas), int64(r.Status.ReadyReplicas),
				kind.Age(r.CreationTimestamp), names, images, selectorOf(r.Spec.Selector),
			}
		},
		Extend: func(in kind.Storages) (kind.Storages, error) {
			in["replicasets/scale"] = kind.Scale(in["replicasets"], func(o runtime.Object) kind.Scaled {
				r := o.(*appsv1.ReplicaSet)
				return kind.Scaled{Meta: &r.ObjectMeta, Replicas: &r.Spec.Replicas, Status: r.Status.Replicas, Selector: r.Spec.Selector}
			})
			return in, nil
		},
	}
}

func defaultReplicaSet(r *appsv1.ReplicaSet) {
	core.DefaultPodTemplate(&r.Spec.Template)
	r.Spec.Replicas = orInt(r.Spec.Replicas, 1)
}
