package ipaddress

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"kontiki/controllers/plantest"
)

type input struct {
	world  `json:",inline"`
	Alone  *networkingv1.IPAddress `json:"alone"`
	Parent *corev1.Service         `json:"parent"`
}

func TestPlan(t *testing.T) {
	plantest.Run(t, func(in input) map[string][]repair {
		var todo []repair
		if in.Alone == nil {
			todo = planService(in.world)
		} else if r := planIPAddress(in.Alone, in.Parent); r != (repair{}) {
			todo = []repair{r}
		}
		if len(todo) == 0 {
			return map[string][]repair{}
		}
		return map[string][]repair{"repairs": todo}
	})
}
