package volumeprotection

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"kontiki/controllers/plantest"
)

type input struct {
	Claim  *corev1.PersistentVolumeClaim `json:"claim"`
	Pods   []*corev1.Pod                 `json:"pods"`
	Volume *corev1.PersistentVolume      `json:"volume"`
}

func TestPlan(t *testing.T) {
	plantest.Run(t, func(in input) map[string]change {
		todo := nothing
		if in.Volume != nil {
			todo = planVolume(in.Volume)
		} else {
			todo = planClaim(in.Claim, in.Pods)
		}
		if todo == nothing {
			return map[string]change{}
		}
		return map[string]change{"finalizer": todo}
	})
}
