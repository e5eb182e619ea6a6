package ephemeralvolume

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"kontiki/controllers/plantest"
)

type input struct {
	Pod    *corev1.Pod                     `json:"pod"`
	Claims []*corev1.PersistentVolumeClaim `json:"claims"`
}

type output struct {
	Create   []*corev1.PersistentVolumeClaim `json:"create,omitempty"`
	Refusals []string                        `json:"refusals,omitempty"`
}

func TestPlan(t *testing.T) {
	plantest.Run(t, func(in input) output {
		a := plan(in.Pod, func(name string) *corev1.PersistentVolumeClaim {
			if i := slices.IndexFunc(in.Claims, func(c *corev1.PersistentVolumeClaim) bool { return c.Name == name }); i >= 0 {
				return in.Claims[i]
			}
			return nil
		})
		return output{a.create, a.refusals}
	})
}
