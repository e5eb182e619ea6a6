package core

import (
	"fmt"
	"math"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/sets"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// podMutable is what upstream says may change of a pod's spec.
var podMutable = strings.Join([]string{
	"`spec.containers[*].image`", "`spec.initContainers[*].image`", "`spec.activeDeadlineSeconds`",
	"`spec.tolerations` (only additions to existing tolerations)",
	"`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
}, ",")

func validatePodUpdate(p, old *corev1.Pod) field.ErrorList {
	spec := field.NewPath("spec")
	errs := validatePodAlone(p)
	errs = append(errs, validateMirrorUpdate(p, old)...)
	for _, list := range []struct {
		name     string
		now, old []corev1.Container
	}{{"containers", p.Spec.Containers, old.Spec.Containers}, {"initContainers", p.Spec.InitContainers, old.Spec.InitContainers}} {
		if len(list.now) != len(list.old) {
			return append(errs, field.Forbidden(spec.Child(list.name), "pod updates may not add or remove containers"))
		}
		for i, c := range list.now {
			at := spec.Child(list.name).Index(i).Child("image")
			if c.Image == "" {
				errs = append(errs, field.Required(at, ""))
			}
			errs = append(errs, validateImageName(c.Image, at)...)
		}
	}
	deadline := validateDeadlineUpdate(p.Spec.ActiveDeadlineSeconds, old.Spec.ActiveDeadlineSeconds, spec.Child("activeDeadlineSeconds"))
	errs = append(errs, deadline...)
	if len(deadline) > 0 && p.Spec.ActiveDeadlineSeconds != nil {
		return errs
	}
	errs = append(errs, validateAddedTolerations(p.Spec.Tolerations, old.Spec.Tolerations, spec.Child("tolerations"))...)
	errs = append(errs, validateRemovedGates(p.Spec.SchedulingGates, old.Spec.SchedulingGates, spec.Child("schedulingGates"))...)
	if apiequality.Semantic.DeepEqual(p.Spec, old.Spec) {
		return errs
	}

	// What may change is put back; then nothing may differ.
	munged := p.Spec.DeepCopy()
	for i := range munged.Containers {
		munged.Containers[i].Image = old.Spec.Containers[i].Image
	}
	for i := range munged.InitContainers {
		munged.InitContainers[i].Image = old.Spec.InitContainers[i].Image
	}
	munged.ActiveDeadlineSeconds = old.Spec.ActiveDeadlineSeconds
	munged.Tolerations = old.Spec.Tolerations
	munged.SchedulingGates = old.Spec.SchedulingGates
	if g := old.Spec.TerminationGracePeriodSeconds; g != nil && *g < 0 && munged.TerminationGracePeriodSeconds != nil && *munged.TerminationGracePeriodSeconds == 1 {
		munged.TerminationGracePeriodSeconds = g
	}
	if len(old.Spec.SchedulingGates) > 0 {
		errs = append(errs, validateGatedUpdate(munged, &old.Spec, spec)...)
	}
	if !apiequality.Semantic.DeepEqual(*munged, old.Spec) {
		errs = append(errs, field.Forbidden(spec, fmt.Sprintf("pod updates may not change fields other than %s\n%v", podMutable, diff.Diff(old.Spec, *munged))))
	}
	return errs
}

// validateMirrorUpdate keeps what says that a pod mirrors one of a node's own.
func validateMirrorUpdate(p, old *corev1.Pod) field.ErrorList {
	at := field.NewPath("metadata", "annotations").Key(corev1.MirrorPodAnnotationKey)
	now, is := p.Annotations[corev1.MirrorPodAnnotationKey]
	before, was := old.Annotations[corev1.MirrorPodAnnotationKey]
	switch {
	case was && (!is || now != before):
		return field.ErrorList{field.Forbidden(at, "may not remove or update mirror pod annotation")}
	case is && !was:
		return field.ErrorList{field.Forbidden(at, "may not add mirror pod annotation")}
	}
	return nil
}

// validateGatedUpdate lets a pod that is not scheduled yet be narrowed to fewer
// nodes, and puts that back in munged.
func validateGatedUpdate(munged, old *corev1.PodSpec, spec *field.Path) field.ErrorList {
	var errs field.ErrorList
	if !apiequality.Semantic.DeepEqual(munged.NodeSelector, old.NodeSelector) {
		for k, v := range old.NodeSelector {
			if munged.NodeSelector[k] != v {
				errs = append(errs, field.Invalid(spec.Child("nodeSelector"), munged.NodeSelector, "only additions to spec.nodeSelector are allowed (no mutations or deletions)"))
				break
			}
		}
		munged.NodeSelector = old.NodeSelector
	}
	now, before := nodeAffinityOf(munged), nodeAffinityOf(old)
	if apiequality.Semantic.DeepEqual(now, before) {
		return errs
	}
	errs = append(errs, validateNarrowed(now, before, spec.Child("affinity", "nodeAffinity"))...)
	switch {
	case munged.Affinity == nil:
		munged.Affinity = &corev1.Affinity{NodeAffinity: before}
	case old.Affinity == nil && munged.Affinity.PodAffinity == nil && munged.Affinity.PodAntiAffinity == nil:
		munged.Affinity = nil
	default:
		munged.Affinity.NodeAffinity = before
	}
	return errs
}

func nodeAffinityOf(s *corev1.PodSpec) *corev1.NodeAffinity {
	if s.Affinity == nil {
		return nil
	}
	return s.Affinity.NodeAffinity
}

func validateNarrowed(now, old *corev1.NodeAffinity, path *field.Path) field.ErrorList {
	if old == nil || old.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return nil // anything narrows what had no terms
	}
	at := path.Child("requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms")
	before := old.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	var terms []corev1.NodeSelectorTerm
	if now != nil && now.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		terms = now.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	}
	if len(before) > 0 && len(terms) != len(before) {
		return field.ErrorList{field.Invalid(at, terms, "no additions/deletions to non-empty NodeSelectorTerms list are allowed")}
	}
	var errs field.ErrorList
	for i, was := range before {
		empty := len(was.MatchExpressions)+len(was.MatchFields) == 0 // and matches nothing, so that any term would widen it
		if !onlyAdds(terms[i].MatchExpressions, was.MatchExpressions) || !onlyAdds(terms[i].MatchFields, was.MatchFields) ||
			(empty && len(terms[i].MatchExpressions)+len(terms[i].MatchFields) > 0) {
			errs = append(errs, field.Invalid(at.Index(i), terms[i], "only additions are allowed (no mutations or deletions)"))
		}
	}
	return errs
}

func onlyAdds(now, old []corev1.NodeSelectorRequirement) bool {
	return len(now) >= len(old) && (len(old) == 0 || apiequality.Semantic.DeepEqual(now[:len(old)], old))
}

func validateDeadlineUpdate(now, old *int64, at *field.Path) field.ErrorList {
	switch {
	case now == nil && old == nil:
	case now == nil:
		return field.ErrorList{field.Invalid(at, now, "must not update from a positive integer to nil value")}
	case *now < 0 || *now > math.MaxInt32:
		return field.ErrorList{field.Invalid(at, *now, utilvalidation.InclusiveRangeError(0, math.MaxInt32))}
	case old != nil && *now > *old:
		return field.ErrorList{field.Invalid(at, *now, "must be less than or equal to previous value")}
	}
	return nil
}

func validateAddedTolerations(now, old []corev1.Toleration, at *field.Path) field.ErrorList {
	for _, o := range old {
		found := false
		for _, n := range now {
			o.TolerationSeconds = n.TolerationSeconds
			if found = apiequality.Semantic.DeepEqual(n, o); found {
				break
			}
		}
		if !found {
			return field.ErrorList{field.Forbidden(at, "existing toleration can not be modified except its tolerationSeconds")}
		}
	}
	return validateTolerations(now, at)
}

func validateRemovedGates(now, old []corev1.PodSchedulingGate, at *field.Path) field.ErrorList {
	had := sets.New[string]()
	for _, g := range old {
		had.Insert(g.Name)
	}
	var errs field.ErrorList
	for i, g := range now {
		if !had.Has(g.Name) {
			errs = append(errs, field.Forbidden(at.Index(i).Child("name"), fmt.Sprintf("only deletion is allowed, but found new scheduling gate '%s'", g.Name)))
		}
	}
	return errs
}

// validateTerminalStates refuses that a container which has ended for good runs again.
func validateTerminalStates(now, old []corev1.ContainerStatus, path *field.Path, policy corev1.RestartPolicy) field.ErrorList {
	if policy == corev1.RestartPolicyAlways {
		return nil
	}
	var errs field.ErrorList
	for i, o := range old {
		if o.State.Terminated == nil || (o.State.Terminated.ExitCode != 0 && policy == corev1.RestartPolicyOnFailure) {
			continue
		}
		for _, n := range now {
			if n.Name == o.Name && n.State.Terminated == nil {
				errs = append(errs, field.Forbidden(path.Index(i).Child("state"), "may not be transitioned to non-terminated state"))
			}
		}
	}
	return errs
}

func validatePodIPs(p *corev1.Pod, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	families := map[bool]int{}
	for i, ip := range p.Status.PodIPs {
		errs = append(errs, utilvalidation.IsValidIPForLegacyField(path.Child("podIPs").Index(i), ip.IP, true, nil)...)
		if addr, err := netip.ParseAddr(ip.IP); err == nil {
			families[addr.Is4()]++
		}
	}
	if len(p.Status.PodIPs) > 1 && (len(p.Status.PodIPs) > 2 || families[true] != 1 || families[false] != 1) {
		errs = append(errs, field.Invalid(path.Child("podIPs"), p.Status.PodIPs, "may specify no more than one IP for each IP family"))
	}
	return errs
}
