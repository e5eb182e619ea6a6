package pod

import (
	"errors"
	"fmt"
	"os"

	corev1 "k8s.io/api/core/v1"
)

// Claimed is what a claim stood for when the pod's volumes were first made. The
// pod keeps it: whatever becomes of the claim, and with no API in reach.
type Claimed struct {
	Volume string `json:"volume"`          // the PersistentVolume's name
	Path   string `json:"path"`            // on this node
	Host   bool   `json:"host,omitempty"`  // a hostPath: its ownership is not the pod's to change
	Given  bool   `json:"given,omitempty"` // its ownership is as the pod wants it
}

// ClaimOf names the claim that a volume of the pod is made of; "" for none.
func ClaimOf(pod *corev1.Pod, v *corev1.Volume) string {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil:
		return pod.Name + "-" + v.Name
	}
	return ""
}

// claim finds out what the volume's claim stands for, once in the pod's life.
func (w *Worker) claim(s *sources, v *corev1.Volume) error {
	if _, known := w.rec.Claims[v.Name]; known {
		return nil
	}
	name := ClaimOf(w.rec.Pod, v)
	pv, err := s.objects.Claimed(s.ctx, s.pod, name)
	if err != nil {
		return fmt.Errorf("error processing PVC %s/%s: %w", s.pod.Namespace, name, err)
	}
	claimed := Claimed{Volume: pv.Name}
	switch {
	case pv.Spec.VolumeMode != nil && *pv.Spec.VolumeMode == corev1.PersistentVolumeBlock:
		return fmt.Errorf("volume %s has volumeMode Block, but is specified in volumeMounts", v.Name)
	case pv.Spec.Local != nil:
		claimed.Path = pv.Spec.Local.Path
	case pv.Spec.HostPath != nil:
		if err := checkHostPath(pv.Spec.HostPath); err != nil {
			return err
		}
		claimed.Path, claimed.Host = pv.Spec.HostPath.Path, true
	default:
		return fmt.Errorf("failed to get Plugin from volumeSpec for volume %q err=no volume plugin matched", pv.Name)
	}
	if w.rec.Claims == nil {
		w.rec.Claims = map[string]Claimed{}
	}
	w.rec.Claims[v.Name] = claimed
	w.commit()
	return nil
}

// setupClaim makes a claim's volume fit to be mounted. One that is not there any
// more is an error: an empty one in its place would pass for the data.
func (w *Worker) setupClaim(v *corev1.Volume) error {
	c := w.rec.Claims[v.Name]
	if _, err := os.Stat(c.Path); errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("path %q does not exist", c.Path)
	} else if err != nil {
		return err
	}
	if c.Host || c.Given || v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ReadOnly {
		return nil
	}
	if err := give(c.Path, w.rec.Pod, false); err != nil {
		return fmt.Errorf("applyFSGroup failed for vol %s: %w", c.Volume, err)
	}
	c.Given = true
	w.rec.Claims[v.Name] = c
	w.commit()
	return nil
}

// uses says whether the pod's containers may have the PersistentVolume mounted.
func (r *Record) uses(volume string) bool {
	if r.TornDown {
		return false
	}
	for _, c := range r.Claims {
		if c.Volume == volume {
			return true
		}
	}
	return false
}
