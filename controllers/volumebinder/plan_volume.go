package volumebinder

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storage "k8s.io/component-helpers/storage/volume"
)

// planVolume decides on a volume. claim is the one that its claimRef means, by UID;
// nil: there is none, and the API was asked.
func planVolume(volume *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) actions {
	a := actions{from: volume, volume: volume.DeepCopy()}
	v := a.volume
	ref := v.Spec.ClaimRef
	switch {
	case ref == nil || ref.UID == "": // free, or kept for a claim that is not bound to it yet
		setPhase(v, corev1.VolumeAvailable)
	case claim == nil:
		a.release()
	case claim.Spec.VolumeName == "":
		if storage.CheckVolumeModeMismatches(&claim.Spec, &v.Spec) {
			a.tellVolume(corev1.EventTypeWarning, "VolumeMismatch", fmt.Sprintf("Cannot bind PersistentVolume to requested PersistentVolumeClaim %q due to incompatible volumeMode.", claim.Name))
			return a
		}
		a.look = claim.Namespace + "/" + claim.Name // the claim's plan binds both
	case claim.Spec.VolumeName == v.Name:
		setPhase(v, corev1.VolumeBound)
	case v.Annotations[storage.AnnDynamicallyProvisioned] != "" && v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete:
		a.release() // made for a claim that took another one meanwhile
	default:
		unbind(v)
	}
	return a
}

func (a *actions) tellVolume(kind, reason, message string) {
	a.events = append(a.events, event{onVolume: true, kind: kind, reason: reason, message: message})
}

func setPhase(v *corev1.PersistentVolume, phase corev1.PersistentVolumePhase) {
	if v.Status.Phase != phase {
		v.Status.Phase, v.Status.Message, v.Status.Reason = phase, "", ""
	}
}

// unbind lets the claim of a volume go. Who kept the volume for a name, keeps it.
func unbind(v *corev1.PersistentVolume) {
	if _, ours := v.Annotations[storage.AnnBoundByController]; ours {
		v.Spec.ClaimRef = nil
		delete(v.Annotations, storage.AnnBoundByController)
	} else {
		v.Spec.ClaimRef.UID, v.Spec.ClaimRef.ResourceVersion = "", ""
	}
	setPhase(v, corev1.VolumeAvailable)
}

// release is what happens to a volume whose claim is gone. What a provisioner
// made, it deletes itself once the volume is Released.
func (a *actions) release() {
	v := a.volume
	if v.Status.Phase == corev1.VolumeFailed {
		return
	}
	setPhase(v, corev1.VolumeReleased)
	if v.DeletionTimestamp != nil {
		return
	}
	reason, message := "", ""
	switch v.Spec.PersistentVolumeReclaimPolicy {
	case corev1.PersistentVolumeReclaimRecycle:
		reason, message = "VolumeFailedRecycle", "No recycler plugin found for the volume!"
	case corev1.PersistentVolumeReclaimDelete:
		if v.Annotations[storage.AnnDynamicallyProvisioned] == "" {
			reason, message = "VolumeFailedDelete", fmt.Sprintf("error getting deleter volume plugin for volume %q: no deletable volume plugin matched", v.Name)
		}
	}
	if reason != "" {
		setPhase(v, corev1.VolumeFailed)
		v.Status.Message = message
		a.tellVolume(corev1.EventTypeWarning, reason, message)
	}
}
