package volumeprotection

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"kontiki/controllers/podview"
)

// Upstream's finalizers.
const (
	claimFinalizer  = "kubernetes.io/pvc-protection"
	volumeFinalizer = "kubernetes.io/pv-protection"
)

// change is what is to be done with a finalizer.
type change string

const (
	nothing change = ""
	add     change = "add"
	remove  change = "remove"
)

// planClaim protects a claim while a pod that has a node uses it. A pod without one
// cannot start any more: neither the scheduler nor an agent takes a claim that is being deleted.
func planClaim(claim *corev1.PersistentVolumeClaim, pods []*corev1.Pod) change {
	used := slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return uses(p, claim.Name) })
	return protect(claim.Finalizers, claimFinalizer, claim.DeletionTimestamp != nil, used)
}

// planVolume protects a volume while it is bound.
func planVolume(v *corev1.PersistentVolume) change {
	return protect(v.Finalizers, volumeFinalizer, v.DeletionTimestamp != nil, v.Status.Phase == corev1.VolumeBound)
}

func protect(finalizers []string, name string, deleted, used bool) change {
	has := slices.Contains(finalizers, name)
	switch {
	case !deleted && !has:
		return add
	case deleted && has && !used:
		return remove
	}
	return nothing
}

func uses(pod *corev1.Pod, claim string) bool {
	if pod.Spec.NodeName == "" || podview.Finished(pod) {
		return false
	}
	return slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
		return v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == claim ||
			v.Ephemeral != nil && pod.Name+"-"+v.Name == claim
	})
}
