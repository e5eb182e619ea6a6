package volumebinder

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	storage "k8s.io/component-helpers/storage/volume"
)

// actions is what a plan wants: objects as they should be (nil: as they are), to
// be written in this order, and what to tell. A crash between any two leaves a
// volume that names its claim, which the next plan of either finishes.
type actions struct {
	from   *corev1.PersistentVolume // what volume was made from
	volume *corev1.PersistentVolume
	claim  *corev1.PersistentVolumeClaim
	look   string // key of a claim to look at
	events []event
}

type event struct {
	onVolume              bool
	kind, reason, message string
}

func (a *actions) tell(kind, reason, format string, args ...any) {
	a.events = append(a.events, event{kind: kind, reason: reason, message: fmt.Sprintf(format, args...)})
}

// claimWorld is what a claim's plan is made from.
type claimWorld struct {
	claim        *corev1.PersistentVolumeClaim
	volumes      []*corev1.PersistentVolume
	class        *storagev1.StorageClass // the one that the claim names, if it exists
	defaultClass *storagev1.StorageClass // for claims that name none
	waiting      []string                // pods that use the claim and have no node yet
}

func planClaim(w claimWorld) actions {
	switch {
	case metav1.HasAnnotation(w.claim.ObjectMeta, storage.AnnBindCompleted):
		return planBound(w)
	case w.claim.DeletionTimestamp != nil:
		return actions{} // it gets nothing any more
	case w.claim.Spec.VolumeName != "":
		return planNamed(w)
	}
	return planUnbound(w)
}

// planUnbound finds a volume, or has one made, for a claim that takes any.
func planUnbound(w claimWorld) actions {
	delayed := w.class != nil && w.class.VolumeBindingMode != nil && *w.class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer &&
		!storage.IsDelayBindingProvisioning(w.claim)
	volume, err := bestMatch(w, delayed)
	var a actions
	if err != nil { // a selector that is none; the API has refused it
		a.tell(corev1.EventTypeWarning, "FailedBinding", "%v", err)
		return a.pending(w.claim)
	}
	name := storage.GetPersistentVolumeClaimClass(w.claim)
	switch {
	case volume != nil:
		return bind(volume, w.claim)
	case !storage.PersistentVolumeClaimHasClass(w.claim) && w.defaultClass != nil:
		a.claim = w.claim.DeepCopy()
		a.claim.Spec.StorageClassName = &w.defaultClass.Name
		return a // and on, when that is written
	case delayed && len(w.waiting) == 1:
		a.tell(corev1.EventTypeNormal, "WaitForPodScheduled", "waiting for pod %s to be scheduled", w.waiting[0])
	case delayed && len(w.waiting) > 1:
		a.tell(corev1.EventTypeNormal, "WaitForPodScheduled", "waiting for pods %s to be scheduled", strings.Join(w.waiting, ","))
	case delayed:
		a.tell(corev1.EventTypeNormal, "WaitForFirstConsumer", "waiting for first consumer to be created before binding")
	case name == "":
		a.tell(corev1.EventTypeNormal, "FailedBinding", "no persistent volumes available for this claim and no storage class is set")
	case w.class == nil:
		a.tell(corev1.EventTypeWarning, "ProvisioningFailed", "storageclass.storage.k8s.io %q not found", name)
	case strings.HasPrefix(w.class.Provisioner, "kubernetes.io/"):
		a.tell(corev1.EventTypeWarning, "ProvisioningFailed", "no volume plugin matched name: %s", w.class.Provisioner)
	default:
		return a.provision(w)
	}
	return a.pending(w.claim)
}

// provision tells the class's provisioner that the claim is its to serve.
func (a actions) provision(w claimWorld) actions {
	a = a.pending(w.claim)
	by := w.class.Provisioner
	if w.claim.Annotations[storage.AnnStorageProvisioner] != by || w.claim.Annotations[storage.AnnBetaStorageProvisioner] != by {
		if a.claim == nil {
			a.claim = w.claim.DeepCopy()
		}
		metav1.SetMetaDataAnnotation(&a.claim.ObjectMeta, storage.AnnBetaStorageProvisioner, by)
		metav1.SetMetaDataAnnotation(&a.claim.ObjectMeta, storage.AnnStorageProvisioner, by)
	}
	a.tell(corev1.EventTypeNormal, "ExternalProvisioning", "Waiting for a volume to be created either by the external provisioner '%s' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered.", by)
	return a
}

// bestMatch is a volume that was meant for the claim, or the smallest that will
// do of those with the fewest access modes. While binding is delayed, the scheduler alone picks.
func bestMatch(w claimWorld, delayed bool) (*corev1.PersistentVolume, error) {
	byModes := map[int][]*corev1.PersistentVolume{}
	most := 0
	for _, v := range w.volumes {
		if storage.CheckAccessModes(w.claim, v) {
			n := len(v.Spec.AccessModes)
			byModes[n] = append(byModes[n], v)
			most = max(most, n)
		}
	}
	for n := range most + 1 {
		const attributesClasses = true // the kind is served
		found, err := storage.FindMatchingVolume(w.claim, byModes[n], nil, nil, delayed, attributesClasses)
		if found != nil || err != nil {
			return found, err
		}
	}
	return nil, nil
}

// planNamed serves a claim that asks for one volume.
func planNamed(w claimWorld) actions {
	var a actions
	claim, volume := w.claim, w.named()
	switch {
	case volume == nil:
	case volume.Spec.ClaimRef == nil:
		why := mismatch(volume, claim)
		if why == "" {
			return bind(volume, claim)
		}
		a.tell(corev1.EventTypeWarning, "VolumeMismatch", "Cannot bind to requested volume %q: %s", volume.Name, why)
	case storage.IsVolumeBoundToClaim(volume, claim):
		return bind(volume, claim)
	default:
		a.tell(corev1.EventTypeWarning, "FailedBinding", "volume %q already bound to a different claim.", volume.Name)
	}
	return a.pending(claim)
}

func (w *claimWorld) named() *corev1.PersistentVolume {
	i := slices.IndexFunc(w.volumes, func(v *corev1.PersistentVolume) bool { return v.Name == w.claim.Spec.VolumeName })
	if i < 0 {
		return nil
	}
	return w.volumes[i]
}

// mismatch says why a volume cannot serve the claim that names it.
func mismatch(volume *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) string {
	asked, has := claim.Spec.Resources.Requests[corev1.ResourceStorage], volume.Spec.Capacity[corev1.ResourceStorage]
	switch {
	case has.Cmp(asked) < 0:
		return "requested PV is too small"
	case storage.GetPersistentVolumeClass(volume) != storage.GetPersistentVolumeClaimClass(claim):
		return "storageClassName does not match"
	case storage.CheckVolumeModeMismatches(&claim.Spec, &volume.Spec):
		return "incompatible volumeMode"
	case !storage.CheckAccessModes(claim, volume):
		return "incompatible accessMode"
	}
	return ""
}

// planBound looks whether a claim still has what it was bound to.
func planBound(w claimWorld) actions {
	claim, volume := w.claim, w.named()
	switch {
	case claim.Spec.VolumeName == "":
		return lost(claim, "ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!")
	case volume == nil:
		return lost(claim, "ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!")
	case volume.Spec.ClaimRef == nil, volume.Spec.ClaimRef.UID == claim.UID:
		return bind(volume, claim) // or the rest of it
	}
	return lost(claim, "ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
}

func lost(claim *corev1.PersistentVolumeClaim, reason, message string) actions {
	var a actions
	if claim.Status.Phase == corev1.ClaimLost {
		return a
	}
	a.claim = claim.DeepCopy()
	a.claim.Status.Phase, a.claim.Status.AccessModes, a.claim.Status.Capacity = corev1.ClaimLost, nil, nil
	a.tell(corev1.EventTypeWarning, reason, "%s", message)
	return a
}

func (a actions) pending(claim *corev1.PersistentVolumeClaim) actions {
	if claim.Status.Phase != corev1.ClaimPending {
		a.claim = claim.DeepCopy()
		a.claim.Status.Phase, a.claim.Status.AccessModes, a.claim.Status.Capacity = corev1.ClaimPending, nil, nil
	}
	return a
}

// bind is volume and claim as they are when bound to each other.
func bind(volume *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) actions {
	v := volume.DeepCopy()
	if !storage.IsVolumeBoundToClaim(volume, claim) {
		metav1.SetMetaDataAnnotation(&v.ObjectMeta, storage.AnnBoundByController, "yes")
	}
	if ref := v.Spec.ClaimRef; ref == nil || ref.UID != claim.UID {
		v.Spec.ClaimRef = refTo(claim)
	}
	v.Status.Phase, v.Status.Message, v.Status.Reason = corev1.VolumeBound, "", ""

	c := claim.DeepCopy()
	if c.Spec.VolumeName != volume.Name {
		c.Spec.VolumeName = volume.Name
		metav1.SetMetaDataAnnotation(&c.ObjectMeta, storage.AnnBoundByController, "yes")
	}
	if !metav1.HasAnnotation(c.ObjectMeta, storage.AnnBindCompleted) {
		metav1.SetMetaDataAnnotation(&c.ObjectMeta, storage.AnnBindCompleted, "yes")
	}
	if c.Status.Phase != corev1.ClaimBound {
		c.Status.Phase = corev1.ClaimBound
		c.Status.Capacity = corev1.ResourceList{corev1.ResourceStorage: volume.Spec.Capacity[corev1.ResourceStorage]}
	}
	c.Status.AccessModes = volume.Spec.AccessModes
	return actions{from: volume, volume: v, claim: c}
}

func refTo(claim *corev1.PersistentVolumeClaim) *corev1.ObjectReference {
	return &corev1.ObjectReference{
		Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: claim.Namespace, Name: claim.Name,
		UID: claim.UID, ResourceVersion: claim.ResourceVersion,
	}
}
