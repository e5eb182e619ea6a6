package apps

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kontiki/apiserver/core"
	"kontiki/apiserver/kind"
)

func deployments() kind.Definition {
	return &kind.Kind[*appsv1.Deployment]{
		Resource: "deployments", Singular: "deployment", ShortNames: []string{"deploy"}, Categories: []string{"all"},
		New:            func() *appsv1.Deployment { return &appsv1.Deployment{} },
		NewList:        func() runtime.Object { return &appsv1.DeploymentList{} },
		Generation:     func(d *appsv1.Deployment) any { return generationOf(d.Spec, d.Annotations) },
		Default:        defaultDeployment,
		Validate:       func(d *appsv1.Deployment) field.ErrorList { return validateDeploymentSpec(&d.Spec) },
		ValidateUpdate: validateDeploymentUpdate,
		Warn:           warnDeployment,
		Status: &kind.Status[*appsv1.Deployment]{
			Prepare:  func(d, old *appsv1.Deployment) { d.Labels = old.Labels },
			Validate: validateDeploymentStatus,
		},
		Columns: []metav1.TableColumnDefinition{
			kind.NameColumn,
			kind.Column("Ready", "Number of the pod with ready state"),
			kind.Column("Up-to-date", appsv1.DeploymentStatus{}.SwaggerDoc()["updatedReplicas"]),
			kind.Column("Available", appsv1.DeploymentStatus{}.SwaggerDoc()["availableReplicas"]),
			kind.AgeColumn,
			kind.Wide("Containers", "Names of each container in the template."),
			kind.Wide("Images", "Images referenced by each container in the template."),
			kind.Wide("Selector", appsv1.DeploymentSpec{}.SwaggerDoc()["selector"]),
		},
		Cells: func(d *appsv1.Deployment) []any {
			names, images := containersOf(d.Spec.Template.Spec)
			return []any{
				d.Name, fmt.Sprintf("%d/%d", d.Status.ReadyReplicas, *orInt(d.Spec.Replicas, 0)), int64(d.Status.UpdatedReplicas),
				int64(d.Status.AvailableReplicas), kind.Age(d.CreationTimestamp), names, images, selectorOf(d.Spec.Selector),
			}
		},
		Extend: func(in kind.Storages) (kind.Storages, error) {
			in["deployments/scale"] = kind.Scale(in["deployments"], func(o runtime.Object) kind.Scaled {
				d := o.(*appsv1.Deployment)
				return kind.Scaled{Meta: &d.ObjectMeta, Replicas: &d.Spec.Replicas, Status: d.Status.Replicas, Selector: d.Spec.Selector}
			})
			return in, nil
		},
	}
}

// generationOf is what a Deployment's generation counts: its spec, and its
// annotations, which are carried over to its ReplicaSets.
func generationOf(spec appsv1.DeploymentSpec, annotations map[string]string) any {
	return struct {
		Spec        appsv1.DeploymentSpec
		Annotations map[string]string
	}{spec, annotations}
}

func defaultDeployment(d *appsv1.Deployment) {
	s := &d.Spec
	core.DefaultPodTemplate(&s.Template)
	s.Replicas = orInt(s.Replicas, 1)
	if s.Strategy.Type == "" {
		s.Strategy.Type = appsv1.RollingUpdateDeploymentStrategyType
	}
	if s.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType {
		if s.Strategy.RollingUpdate == nil {
			s.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{}
		}
		quarter := intstr.FromString("25%")
		if s.Strategy.RollingUpdate.MaxUnavailable == nil {
			s.Strategy.RollingUpdate.MaxUnavailable = &quarter
		}
		if s.Strategy.RollingUpdate.MaxSurge == nil {
			surge := quarter
			s.Strategy.RollingUpdate.MaxSurge = &surge
		}
	}
	s.RevisionHistoryLimit = orInt(s.RevisionHistoryLimit, 10)
	s.ProgressDeadlineSeconds = orInt(s.ProgressDeadlineSeconds, 600)
}

func orInt(p *int32, v int32) *int32 {
	if p == nil {
		return &v
	}
	return p
}
