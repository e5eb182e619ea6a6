package volumeprotection

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/utils/ptr"
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
	used := slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return uses(p, claim) })
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

// uses says whether a pod keeps a claim from going. One that has ended does so too,
// as long as it is there: what a Job left in its claim can still be fetched.
func uses(pod *corev1.Pod, claim *corev1.PersistentVolumeClaim) bool {
	return pod.Spec.NodeName != "" && slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
		if v.Ephemeral != nil && (shutDown(pod) || ephemeral.VolumeIsForPod(pod, claim) != nil) {
			return false
		}
		return claimOf(pod, &v) == claim.Name
	})
}

// claimOf names the claim of a pod's volume; empty if it has none.
func claimOf(pod *corev1.Pod, v *corev1.Volume) string {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil:
		return ephemeral.VolumeClaimName(pod, v)
	}
	return ""
}

// shutDown says whether a pod only waits for its finalizers. Were its own claims to
// wait for it, a finalizer that waits for them would wait for ever.
func shutDown(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp != nil && ptr.Deref(pod.DeletionGracePeriodSeconds, 1) == 0
}
