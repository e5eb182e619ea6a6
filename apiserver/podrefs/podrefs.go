// Package podrefs tells what other objects pods and volumes refer to: what a
// node must be able to read to run them, and what a node must not smuggle into
// a pod of its own.
//
// The functions are pure. Only apiserver and its admission and authz import it.
package podrefs

import (
	"iter"

	corev1 "k8s.io/api/core/v1"
)

// Secrets are the names of the Secrets that a pod refers to, some more than once.
func Secrets(pod *corev1.Pod) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := range pod.Spec.ImagePullSecrets {
			if !yield(pod.Spec.ImagePullSecrets[i].Name) {
				return
			}
		}
		for env, from := range environments(pod) {
			if from != nil && from.SecretRef != nil && !yield(from.SecretRef.Name) {
				return
			}
			if env != nil && env.ValueFrom != nil && env.ValueFrom.SecretKeyRef != nil && !yield(env.ValueFrom.SecretKeyRef.Name) {
				return
			}
		}
		for i := range pod.Spec.Volumes {
			for _, name := range volumeSecrets(&pod.Spec.Volumes[i].VolumeSource) {
				if !yield(name) {
					return
				}
			}
		}
	}
}

// ConfigMaps are the names of the ConfigMaps that a pod refers to.
func ConfigMaps(pod *corev1.Pod) iter.Seq[string] {
	return func(yield func(string) bool) {
		for env, from := range environments(pod) {
			if from != nil && from.ConfigMapRef != nil && !yield(from.ConfigMapRef.Name) {
				return
			}
			if env != nil && env.ValueFrom != nil && env.ValueFrom.ConfigMapKeyRef != nil && !yield(env.ValueFrom.ConfigMapKeyRef.Name) {
				return
			}
		}
		for i := range pod.Spec.Volumes {
			v := &pod.Spec.Volumes[i]
			if v.ConfigMap != nil && !yield(v.ConfigMap.Name) {
				return
			}
			if v.Projected == nil {
				continue
			}
			for j := range v.Projected.Sources {
				if m := v.Projected.Sources[j].ConfigMap; m != nil && !yield(m.Name) {
					return
				}
			}
		}
	}
}

// Claims are the names of the PersistentVolumeClaims that a pod uses, those that
// are made for it among them.
func Claims(pod *corev1.Pod) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := range pod.Spec.Volumes {
			v := &pod.Spec.Volumes[i]
			name := ""
			switch {
			case v.PersistentVolumeClaim != nil:
				name = v.PersistentVolumeClaim.ClaimName
			case v.Ephemeral != nil:
				name = pod.Name + "-" + v.Name
			}
			if name != "" && !yield(name) {
				return
			}
		}
	}
}

// ResourceClaims are the names of the ResourceClaims that a pod uses, as far as
// they are known.
func ResourceClaims(pod *corev1.Pod) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, c := range pod.Spec.ResourceClaims {
			if c.ResourceClaimName != nil && !yield(*c.ResourceClaimName) {
				return
			}
		}
		for _, s := range pod.Status.ResourceClaimStatuses {
			if s.ResourceClaimName != nil && !yield(*s.ResourceClaimName) {
				return
			}
		}
		if e := pod.Status.ExtendedResourceClaimStatus; e != nil && e.ResourceClaimName != "" {
			yield(e.ResourceClaimName)
		}
	}
}

// environments are all that fills containers' variables: one of each pair is nil.
func environments(pod *corev1.Pod) iter.Seq2[*corev1.EnvVar, *corev1.EnvFromSource] {
	return func(yield func(*corev1.EnvVar, *corev1.EnvFromSource) bool) {
		each := func(env []corev1.EnvVar, from []corev1.EnvFromSource) bool {
			for i := range env {
				if !yield(&env[i], nil) {
					return false
				}
			}
			for i := range from {
				if !yield(nil, &from[i]) {
					return false
				}
			}
			return true
		}
		for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for i := range containers {
				if !each(containers[i].Env, containers[i].EnvFrom) {
					return
				}
			}
		}
		for i := range pod.Spec.EphemeralContainers {
			c := &pod.Spec.EphemeralContainers[i].EphemeralContainerCommon
			if !each(c.Env, c.EnvFrom) {
				return
			}
		}
	}
}

func volumeSecrets(v *corev1.VolumeSource) []string {
	local := func(ref *corev1.LocalObjectReference) []string {
		if ref == nil {
			return nil
		}
		return []string{ref.Name}
	}
	switch {
	case v.Secret != nil:
		return []string{v.Secret.SecretName}
	case v.Projected != nil:
		var names []string
		for i := range v.Projected.Sources {
			if s := v.Projected.Sources[i].Secret; s != nil {
				names = append(names, s.Name)
			}
		}
		return names
	case v.CSI != nil:
		return local(v.CSI.NodePublishSecretRef)
	case v.AzureFile != nil:
		return []string{v.AzureFile.SecretName}
	case v.CephFS != nil:
		return local(v.CephFS.SecretRef)
	case v.Cinder != nil:
		return local(v.Cinder.SecretRef)
	case v.FlexVolume != nil:
		return local(v.FlexVolume.SecretRef)
	case v.RBD != nil:
		return local(v.RBD.SecretRef)
	case v.ScaleIO != nil:
		return local(v.ScaleIO.SecretRef)
	case v.ISCSI != nil:
		return local(v.ISCSI.SecretRef)
	case v.StorageOS != nil:
		return local(v.StorageOS.SecretRef)
	}
	return nil
}
