package scheduler

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
)

// stored is the storage of a plan's input.
type stored struct {
	Claims  []*corev1.PersistentVolumeClaim `json:"claims"`
	Volumes []*corev1.PersistentVolume      `json:"volumes"`
	Classes []*storagev1.StorageClass       `json:"classes"`
}

func (s stored) view() volumeView {
	return volumeView{
		assumed: newAssumedVolumes(),
		claim: func(_, name string) *corev1.PersistentVolumeClaim {
			return named(s.Claims, func(c *corev1.PersistentVolumeClaim) bool { return c.Name == name })
		},
		volume: func(name string) *corev1.PersistentVolume {
			return named(s.Volumes, func(v *corev1.PersistentVolume) bool { return v.Name == name })
		},
		class: func(name string) *storagev1.StorageClass {
			return named(s.Classes, func(c *storagev1.StorageClass) bool { return c.Name == name })
		},
		volumes: func(class string) []*corev1.PersistentVolume {
			return slices.DeleteFunc(slices.Clone(s.Volumes), func(v *corev1.PersistentVolume) bool { return v.Spec.StorageClassName != class })
		},
	}
}

func named[T any](list []*T, is func(*T) bool) *T {
	if i := slices.IndexFunc(list, is); i >= 0 {
		return list[i]
	}
	return nil
}

func (v podVolumes) tell() (bind map[string]string, provision []string) {
	for _, b := range v.bind {
		if bind == nil {
			bind = map[string]string{}
		}
		bind[b.claim.Name] = b.volume.Name
	}
	for _, claim := range v.provision {
		provision = append(provision, claim.Name)
	}
	return bind, provision
}
