package scheduler

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/types"
	storage "k8s.io/component-helpers/storage/volume"
)

// volumeView is what planning sees of volumes. The zero value has none.
type volumeView struct {
	claim  func(namespace, name string) *corev1.PersistentVolumeClaim
	volume func(name string) *corev1.PersistentVolume
	class  func(name string) *storagev1.StorageClass
	// volumes of a class that may still be free.
	volumes func(class string) []*corev1.PersistentVolume
	assumed assumedVolumes
}

// assumedVolumes are choices that the caches do not show yet.
type assumedVolumes struct {
	taken    map[string]*corev1.PersistentVolume // for some claim, by volume
	volumeOf map[types.UID]string                // claim → volume
	nodeOf   map[types.UID]string                // claim → node its volume is made on
}

func newAssumedVolumes() assumedVolumes {
	return assumedVolumes{map[string]*corev1.PersistentVolume{}, map[types.UID]string{}, map[types.UID]string{}}
}

func (a assumedVolumes) clone() assumedVolumes {
	return assumedVolumes{maps.Clone(a.taken), maps.Clone(a.volumeOf), maps.Clone(a.nodeOf)}
}

// add assumes what was chosen for a pod.
func (a assumedVolumes) add(v podVolumes) {
	for _, b := range v.bind {
		a.taken[b.volume.Name], a.volumeOf[b.claim.UID] = b.volume, b.volume.Name
	}
	for _, claim := range v.provision {
		a.nodeOf[claim.UID] = v.node.Name
	}
}

// drop forgets it: the API shows it now, or it came to nothing.
func (a assumedVolumes) drop(v podVolumes) {
	for _, b := range v.bind {
		delete(a.taken, b.volume.Name)
		delete(a.volumeOf, b.claim.UID)
	}
	for _, claim := range v.provision {
		delete(a.nodeOf, claim.UID)
	}
}

// podVolumes is what has to be done for a pod's claims on the node it gets.
type podVolumes struct {
	node      *corev1.Node
	bind      []volumeBinding
	provision []*corev1.PersistentVolumeClaim
}

// volumeBinding gives a volume that exists to a claim.
type volumeBinding struct {
	claim  *corev1.PersistentVolumeClaim
	volume *corev1.PersistentVolume
}

func (v podVolumes) none() bool { return len(v.bind)+len(v.provision) == 0 }

// claims are all that have to be bound before the pod is.
func (v podVolumes) claims() []*corev1.PersistentVolumeClaim {
	var all []*corev1.PersistentVolumeClaim
	for _, b := range v.bind {
		all = append(all, b.claim)
	}
	return append(all, v.provision...)
}

// claimNames are the claims of a pod, and whether each is made from the pod itself.
func claimNames(pod *corev1.Pod) map[string]bool {
	names := map[string]bool{}
	for i := range pod.Spec.Volumes {
		switch v := &pod.Spec.Volumes[i]; {
		case v.PersistentVolumeClaim != nil:
			names[v.PersistentVolumeClaim.ClaimName] = false
		case v.Ephemeral != nil:
			names[pod.Name+"-"+v.Name] = true
		}
	}
	return names
}

func fullyBound(claim *corev1.PersistentVolumeClaim) bool {
	_, done := claim.Annotations[storage.AnnBindCompleted]
	return done && claim.Spec.VolumeName != ""
}
