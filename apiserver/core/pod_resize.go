package core

import (
	"context"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
)

// resizeStrategy lets the CPU and memory of a pod and its containers change while
// the pod runs.
type resizeStrategy struct{ rest.RESTUpdateStrategy }

// PrepareForUpdate implements rest.RESTUpdateStrategy. Containers that do not
// match the old ones are left for the validation to refuse.
func (resizeStrategy) PrepareForUpdate(_ context.Context, o, p runtime.Object) {
	pod, old := o.(*corev1.Pod), p.(*corev1.Pod)
	if len(pod.Spec.Containers) != len(old.Spec.Containers) || len(pod.Spec.InitContainers) != len(old.Spec.InitContainers) {
		return
	}
	now := pod.Spec
	onlyPart(pod, old, func(spec *corev1.PodSpec) {
		spec.Resources = now.Resources
		spec.Containers = onlyResources(now.Containers, spec.Containers)
		spec.InitContainers = onlyResources(now.InitContainers, spec.InitContainers)
	})
}

// onlyResources returns the old containers with the resources of the new ones,
// or the new ones if they are not the same containers.
func onlyResources(now, old []corev1.Container) []corev1.Container {
	for i := range now {
		if now[i].Name != old[i].Name {
			return now
		}
		old[i].Resources, old[i].ResizePolicy = now[i].Resources, now[i].ResizePolicy
	}
	return old
}

// ValidateUpdate implements rest.RESTUpdateStrategy.
func (resizeStrategy) ValidateUpdate(_ context.Context, o, p runtime.Object) field.ErrorList {
	pod, old := o.(*corev1.Pod), p.(*corev1.Pod)
	switch {
	case isMirror(old):
		return field.ErrorList{field.Forbidden(field.NewPath(""), "static pods cannot be resized")}
	case old.Spec.OS != nil && old.Spec.OS.Name == corev1.Windows:
		return field.ErrorList{field.Forbidden(field.NewPath(""), "windows pods cannot be resized")}
	}
	errs := validation.ValidateObjectMetaAccessorUpdate(pod, old, field.NewPath("metadata"))
	errs = append(errs, validatePodAlone(pod)...)
	spec := field.NewPath("spec")
	if QOSClass(pod) != old.Status.QOSClass {
		errs = append(errs, field.Invalid(spec, pod.Status.QOSClass, "Pod QOS Class may not change as a result of resizing"))
	}
	if !nodeResizes(old) {
		errs = append(errs, field.Forbidden(spec, "Pod running on node without support for resize"))
	}
	munged := pod.Spec.DeepCopy()
	if hasPodResources(old) || hasPodResources(pod) {
		errs = append(errs, validatePodLevelResize(munged, &old.Spec, spec)...)
	}
	if order := validateSameContainers(&pod.Spec, &old.Spec, spec); len(order) > 0 {
		return append(errs, order...)
	}
	errs = append(errs, validateContainerResizes(&pod.Spec, &old.Spec, munged, spec)...)
	if !apiequality.Semantic.DeepEqual(pod.Spec.Volumes, old.Spec.Volumes) {
		errs = append(errs, field.Forbidden(spec.Child("volumes"), "volumes are immutable on resize when InPlacePodVerticalScalingMemoryBackedVolumes feature gate is disabled"))
	}
	if len(errs) == 0 && !apiequality.Semantic.DeepEqual(*munged, old.Spec) {
		errs = append(errs, field.Forbidden(spec, "only cpu and memory resources are mutable"))
	}
	return errs
}

// WarningsOnUpdate implements rest.RESTUpdateStrategy.
func (resizeStrategy) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string {
	return nil
}

// nodeResizes tells whether the pod's node can resize: such a node reports the
// resources of what runs. Before anything runs that cannot be told, and is assumed.
func nodeResizes(p *corev1.Pod) bool {
	for _, c := range p.Status.ContainerStatuses {
		if c.State.Running != nil {
			return c.Resources != nil
		}
	}
	return true
}

func hasPodResources(p *corev1.Pod) bool {
	return p.Spec.Resources != nil && len(p.Spec.Resources.Requests)+len(p.Spec.Resources.Limits) > 0
}

func validatePodLevelResize(munged, old *corev1.PodSpec, spec *field.Path) field.ErrorList {
	var errs field.ErrorList
	at := spec.Child("resources")
	if old.Resources != nil {
		if munged.Resources == nil {
			return field.ErrorList{field.Forbidden(at, "pod-level resources cannot be removed")}
		}
		if removed(munged.Resources.Requests, old.Resources.Requests) {
			errs = append(errs, field.Forbidden(at.Child("requests"), "pod-level resource requests cannot be removed"))
		}
		if removed(munged.Resources.Limits, old.Resources.Limits) {
			errs = append(errs, field.Forbidden(at.Child("limits"), "pod-level resource limits cannot be removed"))
		}
	}
	if r := munged.Resources; r != nil {
		before := corev1.ResourceRequirements{}
		if old.Resources != nil {
			before = *old.Resources
		}
		r.Requests, r.Limits = otherResources(r.Requests, before.Requests), otherResources(r.Limits, before.Limits)
		if old.Resources == nil && len(r.Requests)+len(r.Limits)+len(r.Claims) == 0 {
			munged.Resources = nil
		}
	}
	if !apiequality.Semantic.DeepEqual(munged.Resources, old.Resources) {
		errs = append(errs, field.Forbidden(spec, "only cpu and memory resources are mutable at pod-level"))
	}
	return errs
}

func validateSameContainers(now, old *corev1.PodSpec, spec *field.Path) field.ErrorList {
	var errs field.ErrorList
	same := func(now, old []corev1.Container, name string) {
		if len(now) != len(old) {
			errs = append(errs, field.Forbidden(spec.Child(name), name+" may not be added or removed on resize"))
			return
		}
		for i := range old {
			if now[i].Name != old[i].Name {
				errs = append(errs, field.Forbidden(spec.Child(name).Index(i).Child("name"), name+" may not be renamed or reordered on resize"))
			}
		}
	}
	same(now.Containers, old.Containers, "containers")
	same(now.InitContainers, old.InitContainers, "initContainers")
	return errs
}

// validateContainerResizes checks the containers, and puts into munged what they
// may change back to what it was.
func validateContainerResizes(now, old, munged *corev1.PodSpec, spec *field.Path) field.ErrorList {
	var errs field.ErrorList
	kept := func(now, old *corev1.Container, at *field.Path) {
		if removed(now.Resources.Requests, old.Resources.Requests) {
			errs = append(errs, field.Forbidden(at.Child("resources", "requests"), "resource requests cannot be removed"))
		}
		if removed(now.Resources.Limits, old.Resources.Limits) {
			errs = append(errs, field.Forbidden(at.Child("resources", "limits"), "resource limits cannot be removed"))
		}
	}
	for i := range old.InitContainers {
		kept(&now.InitContainers[i], &old.InitContainers[i], spec.Child("initContainers").Index(i))
	}
	for i := range old.Containers {
		kept(&now.Containers[i], &old.Containers[i], spec.Child("containers").Index(i))
	}
	for i := range munged.Containers {
		if !sameButResources(&munged.Containers[i], &old.Containers[i]) {
			errs = append(errs, field.Forbidden(spec, "only cpu and memory resources are mutable"))
		}
	}
	for i := range munged.InitContainers {
		c, before, at := &munged.InitContainers[i], &old.InitContainers[i], spec.Child("initContainers").Index(i)
		changed := !apiequality.Semantic.DeepEqual(*c, *before)
		if !sameButResources(c, before) {
			errs = append(errs, field.Forbidden(at, "only cpu and memory resources for init or sidecar containers are mutable"))
		}
		for _, policy := range c.ResizePolicy {
			if changed && !isSidecar(c) && policy.RestartPolicy == corev1.RestartContainer {
				errs = append(errs, field.Forbidden(at, "non-sidecar init containers with a resize policy of RestartContainer cannot be resized"))
			}
		}
	}
	return errs
}

// sameButResources gives c the CPU and memory of before and compares the rest.
func sameButResources(c, before *corev1.Container) bool {
	c.Resources.Requests = otherResources(c.Resources.Requests, before.Resources.Requests)
	c.Resources.Limits = otherResources(c.Resources.Limits, before.Resources.Limits)
	return apiequality.Semantic.DeepEqual(*c, *before)
}

// otherResources is list with the CPU and memory of old.
func otherResources(list, old corev1.ResourceList) corev1.ResourceList {
	if list == nil && old == nil {
		return nil
	}
	out := corev1.ResourceList{}
	maps.Copy(out, list)
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		delete(out, name)
		if q, ok := old[name]; ok {
			out[name] = q
		}
	}
	return out
}

func removed(list, old corev1.ResourceList) bool {
	for name := range old {
		if _, ok := list[name]; !ok {
			return true
		}
	}
	return false
}
