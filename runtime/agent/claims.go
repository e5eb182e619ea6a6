package agent

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storage "k8s.io/component-helpers/storage/volume"
)

// Claimed is the volume that a claim of the pod is bound to. A volume of
// local-path has its directory when this returns.
func (o *objects) Claimed(ctx context.Context, pod *corev1.Pod, name string) (*corev1.PersistentVolume, error) {
	claim, err := o.client.CoreV1().PersistentVolumeClaims(pod.Namespace).Get(ctx, name, local)
	if err != nil {
		return nil, fmt.Errorf("failed to fetch PVC from API server: %w", err)
	}
	if claim.DeletionTimestamp != nil {
		return nil, errors.New("PVC is being deleted")
	}
	if claim.Status.Phase != corev1.ClaimBound || claim.Spec.VolumeName == "" {
		return nil, errors.New("PVC is not bound")
	}
	volume, err := o.client.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, local)
	if err != nil {
		return nil, fmt.Errorf("failed to fetch PV %s from API server: %w", claim.Spec.VolumeName, err)
	}
	if ref := volume.Spec.ClaimRef; ref == nil || ref.UID != claim.UID {
		return nil, fmt.Errorf("PV %q is not bound to the PVC", volume.Name)
	}
	node, err := o.client.CoreV1().Nodes().Get(ctx, o.nodeName, local)
	if err != nil {
		return nil, fmt.Errorf("failed to fetch this node from API server: %w", err)
	}
	if err := storage.CheckNodeAffinity(volume, node.Labels); err != nil {
		return nil, fmt.Errorf("MountVolume.NodeAffinity check failed for volume %q : %w", volume.Name, err)
	}
	return volume, o.localPaths.make(ctx, volume)
}
