package apps

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"kontiki/apiserver/core"
	"kontiki/apiserver/kind"
)

func warnTemplate(t *corev1.PodTemplateSpec) []string {
	return core.WarnPodTemplate(t, field.NewPath("spec", "template"))
}

// warnNamed warns of the name of a new workload that its pods are named after, and of its template.
func warnNamed(name string, t *corev1.PodTemplateSpec) []string {
	return append(kind.WarnOfPodNames(name), warnTemplate(t)...)
}

// warnChanged warns of a template when the specification has changed.
func warnChanged(w, old metav1.Object, t *corev1.PodTemplateSpec) []string {
	if !kind.SpecChanged(w, old) {
		return nil
	}
	return warnTemplate(t)
}

func warnDeployment(d, old *appsv1.Deployment) []string {
	if old == nil {
		return warnNamed(d.Name, &d.Spec.Template)
	}
	return warnChanged(d, old, &d.Spec.Template)
}

func warnReplicaSet(r, old *appsv1.ReplicaSet) []string {
	if old == nil {
		return warnNamed(r.Name, &r.Spec.Template)
	}
	return warnChanged(r, old, &r.Spec.Template)
}

func warnDaemonSet(d, old *appsv1.DaemonSet) []string {
	if old == nil {
		return warnTemplate(&d.Spec.Template)
	}
	if apiequality.Semantic.DeepEqual(d.Spec.Template, old.Spec.Template) {
		return nil
	}
	return warnTemplate(&d.Spec.Template)
}

func warnStatefulSet(s, old *appsv1.StatefulSet) []string {
	var out []string
	claims := field.NewPath("spec", "volumeClaimTemplates")
	if old == nil {
		out = warnTemplate(&s.Spec.Template)
	} else {
		out = warnChanged(s, old, &s.Spec.Template)
	}
	for i := range s.Spec.VolumeClaimTemplates {
		at := claims.Index(i)
		if old != nil {
			at = at.Child("Spec") // upstream's path
		}
		out = append(out, core.WarnClaimSpec(&s.Spec.VolumeClaimTemplates[i].Spec, at)...)
	}
	if l := s.Spec.RevisionHistoryLimit; l != nil && *l < 0 {
		out = append(out, "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended")
	}
	return out
}
