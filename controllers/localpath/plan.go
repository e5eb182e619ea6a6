package localpath

import (
	"fmt"
	"path"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	storage "k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
)

// What the provisioner and the nodes' agents agree on.
const (
	// Provisioner is the name in StorageClasses, and in the annotation
	// pv.kubernetes.io/provisioned-by of volumes whose directories agents look after.
	Provisioner = "kontiki.io/local-path"
	// Finalizer keeps a volume's object until its directory is gone.
	Finalizer = "kontiki.io/local-path"
	// VolumesPathAnnotation on a Node says below which directory its volumes lie.
	VolumesPathAnnotation = "kontiki.io/volumes-path"
)

// provision is what a claim's plan says.
type provision struct {
	volume   *corev1.PersistentVolume // to be made
	refusal  string                   // why none can be made
	unselect bool                     // the selected node is no more: the scheduler shall choose again
}

// planClaim decides on a claim that waits for this provisioner. node is the one that
// the scheduler selected, nil if it does not exist.
func planClaim(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, node *corev1.Node) provision {
	if claim.Spec.VolumeName != "" || claim.DeletionTimestamp != nil || claim.Annotations[storage.AnnStorageProvisioner] != Provisioner ||
		class == nil || class.Provisioner != Provisioner {
		return provision{}
	}
	if why := unsupported(claim, class); why != "" {
		return provision{refusal: fmt.Sprintf("failed to provision volume with StorageClass %q: %s", class.Name, why)}
	}
	switch selected := claim.Annotations[storage.AnnSelectedNode]; {
	case selected == "":
		return provision{refusal: fmt.Sprintf("failed to provision volume with StorageClass %q: a directory needs a node: the class must have volumeBindingMode WaitForFirstConsumer", class.Name)}
	case node == nil:
		return provision{unselect: true, refusal: fmt.Sprintf("failed to get target node: node %q not found", selected)}
	case node.Annotations[VolumesPathAnnotation] == "":
		return provision{unselect: true, refusal: fmt.Sprintf("failed to provision volume with StorageClass %q: node %q keeps no volumes", class.Name, selected)}
	}
	return provision{volume: volumeFor(claim, class, node)}
}

// unsupported says what of a claim or its class a directory cannot be.
func unsupported(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) string {
	for _, m := range claim.Spec.AccessModes {
		if m != corev1.ReadWriteOnce && m != corev1.ReadWriteOncePod {
			return fmt.Sprintf("access mode %s is not supported, only %s and %s are", m, corev1.ReadWriteOnce, corev1.ReadWriteOncePod)
		}
	}
	for name := range class.Parameters {
		return fmt.Sprintf("parameter %q is not supported", name)
	}
	switch {
	case ptr.Deref(claim.Spec.VolumeMode, corev1.PersistentVolumeFilesystem) == corev1.PersistentVolumeBlock:
		return "block volumes are not supported"
	case claim.Spec.Selector != nil:
		return "claim.Spec.Selector is not supported"
	case claim.Spec.DataSource != nil || claim.Spec.DataSourceRef != nil:
		return "data sources are not supported"
	case len(class.MountOptions) > 0:
		return "mount options are not supported"
	}
	return ""
}

// volumeFor is the volume of a claim: named by the claim's UID, so that one that
// was made and not seen yet is met again.
func volumeFor(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, node *corev1.Node) *corev1.PersistentVolume {
	name := "pvc-" + string(claim.UID)
	host := node.Labels[corev1.LabelHostname]
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: map[string]string{corev1.LabelHostname: host}, Finalizers: []string{Finalizer},
			Annotations: map[string]string{storage.AnnDynamicallyProvisioned: Provisioner},
		},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: claim.Spec.Resources.Requests[corev1.ResourceStorage]},
			AccessModes:                   claim.Spec.AccessModes,
			PersistentVolumeReclaimPolicy: ptr.Deref(class.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete),
			StorageClassName:              class.Name,
			VolumeMode:                    ptr.To(corev1.PersistentVolumeFilesystem),
			ClaimRef: &corev1.ObjectReference{
				Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID, ResourceVersion: claim.ResourceVersion,
			},
			PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: path.Join(node.Annotations[VolumesPathAnnotation], name)}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{host}}},
			}}}},
		},
	}
}

// fate is what becomes of a volume.
type fate string

const (
	keep    fate = ""
	reclaim fate = "reclaim" // its claim is gone: delete it
	forget  fate = "forget"  // its node is gone for good, and the data with it
)

// planVolume decides on a volume of this provisioner. Which node its directory is on,
// the volume's label says; gone: no such node exists.
func planVolume(v *corev1.PersistentVolume, gone bool) fate {
	if v.Annotations[storage.AnnDynamicallyProvisioned] != Provisioner {
		return keep
	}
	switch {
	case v.DeletionTimestamp != nil && gone && len(v.Finalizers) == 1 && v.Finalizers[0] == Finalizer:
		return forget
	case v.DeletionTimestamp == nil && v.Status.Phase == corev1.VolumeReleased && v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete:
		return reclaim
	}
	return keep
}

// class is the default class, as it is made where it is missing.
func class() *storagev1.StorageClass {
	return &storagev1.StorageClass{
		ObjectMeta:        metav1.ObjectMeta{Name: "local-path", Annotations: map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}},
		Provisioner:       Provisioner,
		ReclaimPolicy:     ptr.To(corev1.PersistentVolumeReclaimDelete),
		VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer),
	}
}
