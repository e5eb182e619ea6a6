package localpath

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"kontiki/controllers/plantest"
)

type input struct {
	Claim  *corev1.PersistentVolumeClaim `json:"claim"`
	Class  *storagev1.StorageClass       `json:"class"`
	Node   *corev1.Node                  `json:"node"`
	Volume *corev1.PersistentVolume      `json:"volume"`
}

type output struct {
	Volume   *corev1.PersistentVolume `json:"volume,omitempty"`
	Refusal  string                   `json:"refusal,omitempty"`
	Unselect bool                     `json:"unselect,omitempty"`
	Fate     fate                     `json:"fate,omitempty"`
}

func TestPlan(t *testing.T) {
	plantest.Run(t, func(in input) output {
		if in.Volume != nil {
			return output{Fate: planVolume(in.Volume, in.Node == nil)}
		}
		p := planClaim(in.Claim, in.Class, in.Node)
		return output{Volume: p.volume, Refusal: p.refusal, Unselect: p.unselect}
	})
}
