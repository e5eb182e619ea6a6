package core

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kontiki/apiserver/kind"
)

func podTemplates() kind.Definition {
	return &kind.Kind[*corev1.PodTemplate]{
		Resource: "podtemplates", Singular: "podtemplate",
		New:           func() *corev1.PodTemplate { return &corev1.PodTemplate{} },
		NewList:       func() runtime.Object { return &corev1.PodTemplateList{} },
		ReturnDeleted: true,
		Generation:    func(t *corev1.PodTemplate) any { return t.Template },
		Default:       func(t *corev1.PodTemplate) { DefaultPodTemplate(&t.Template) },
		Warn: func(t, old *corev1.PodTemplate) []string {
			if old != nil && !kind.SpecChanged(t, old) {
				return nil
			}
			return WarnPodTemplate(&t.Template, field.NewPath("template"))
		},
		Validate: func(t *corev1.PodTemplate) field.ErrorList {
			return ValidatePodTemplate(&t.Template, field.NewPath("template"))
		},
		Columns: []metav1.TableColumnDefinition{
			kind.NameColumn,
			kind.Column("Containers", "Names of each container in the template."),
			kind.Column("Images", "Images referenced by each container in the template."),
			kind.Column("Pod Labels", "The labels for the pod template"),
		},
		Cells: func(t *corev1.PodTemplate) []any {
			names, images := containersOf(t.Template.Spec)
			return []any{t.Name, names, images, labels.FormatLabels(t.Template.Labels)}
		},
	}
}
