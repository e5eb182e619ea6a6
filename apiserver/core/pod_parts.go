package core

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"kontiki/apiserver/kind"
)

// podParts are the subresources that change one part of a pod's spec and nothing
// else: ephemeral containers are only added, containers are resized in place.
func podParts(main *kind.REST) kind.Storages {
	base := main.Store.UpdateStrategy
	prefix := fieldpath.MakePrefixMatcherOrDie
	any := fieldpath.MatchAnyPathElement()
	return kind.Storages{
		"pods/ephemeralcontainers": kind.WithPart(main, ephemeralStrategy{base}, corev1.SchemeGroupVersion,
			prefix("spec", "ephemeralContainers")),
		"pods/resize": kind.WithPart(main, resizeStrategy{base}, corev1.SchemeGroupVersion,
			prefix("spec", "containers", any, "resources"), prefix("spec", "containers", any, "resizePolicy"),
			prefix("spec", "initContainers", any, "resources"), prefix("spec", "initContainers", any, "resizePolicy")),
	}
}

// onlyPart puts everything of p but the changed spec back to what old is.
func onlyPart(p, old *corev1.Pod, change func(spec *corev1.PodSpec)) {
	spec := *old.Spec.DeepCopy()
	change(&spec)
	p.Spec, p.Status = spec, old.Status
	metav1.ResetObjectMetaForStatus(&p.ObjectMeta, &old.ObjectMeta)
	if !apiequality.Semantic.DeepEqual(p.Spec, old.Spec) {
		p.Generation = old.Generation + 1
	}
}

func isMirror(p *corev1.Pod) bool {
	_, ok := p.Annotations[corev1.MirrorPodAnnotationKey]
	return ok
}

// ephemeralStrategy lets ephemeral containers be added.
type ephemeralStrategy struct{ rest.RESTUpdateStrategy }

// PrepareForUpdate implements rest.RESTUpdateStrategy.
func (ephemeralStrategy) PrepareForUpdate(_ context.Context, o, p runtime.Object) {
	pod, old := o.(*corev1.Pod), p.(*corev1.Pod)
	containers := pod.Spec.EphemeralContainers
	onlyPart(pod, old, func(spec *corev1.PodSpec) { spec.EphemeralContainers = containers })
}

// ValidateUpdate implements rest.RESTUpdateStrategy.
func (ephemeralStrategy) ValidateUpdate(_ context.Context, o, p runtime.Object) field.ErrorList {
	pod, old := o.(*corev1.Pod), p.(*corev1.Pod)
	if isMirror(old) {
		return field.ErrorList{field.Forbidden(field.NewPath(""), "static pods do not support ephemeral containers")}
	}
	errs := validation.ValidateObjectMetaAccessorUpdate(pod, old, field.NewPath("metadata"))
	errs = append(errs, validatePodAlone(pod)...)
	now := map[string]corev1.EphemeralContainer{}
	for _, c := range pod.Spec.EphemeralContainers {
		now[c.Name] = c
	}
	at := field.NewPath("spec", "ephemeralContainers")
	for _, before := range old.Spec.EphemeralContainers {
		c, ok := now[before.Name]
		switch {
		case !ok:
			errs = append(errs, field.Forbidden(at, fmt.Sprintf("existing ephemeral containers %q may not be removed\n", before.Name)))
		case !apiequality.Semantic.DeepEqual(before, c):
			errs = append(errs, field.Forbidden(at, fmt.Sprintf("existing ephemeral containers %q may not be changed\n%v", before.Name, diff.Diff(before, c))))
		}
	}
	return errs
}

// WarningsOnUpdate implements rest.RESTUpdateStrategy.
func (ephemeralStrategy) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string {
	return nil
}
