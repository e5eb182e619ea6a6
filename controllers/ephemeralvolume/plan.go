package ephemeralvolume

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/ephemeral"

	"kontiki/controllers/podview"
)

// actions are claims to make, and why some cannot be made.
type actions struct {
	create   []*corev1.PersistentVolumeClaim
	refusals []string
}

// plan makes the claims of a pod that are not there. One of the same name that is
// another's is not taken.
func plan(pod *corev1.Pod, claim func(name string) *corev1.PersistentVolumeClaim) (a actions) {
	if pod.DeletionTimestamp != nil || podview.Finished(pod) {
		return a
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Ephemeral == nil || v.Ephemeral.VolumeClaimTemplate == nil {
			continue
		}
		name := ephemeral.VolumeClaimName(pod, v)
		if there := claim(name); there != nil {
			if err := ephemeral.VolumeIsForPod(pod, there); err != nil {
				a.refusals = append(a.refusals, fmt.Sprintf("ephemeral volume %s: %v", v.Name, err))
			}
			continue
		}
		template := v.Ephemeral.VolumeClaimTemplate
		a.create = append(a.create, &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: pod.Namespace, Name: name, Labels: template.Labels, Annotations: template.Annotations,
				OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(pod, corev1.SchemeGroupVersion.WithKind("Pod"))},
			},
			Spec: template.Spec,
		})
	}
	return a
}
