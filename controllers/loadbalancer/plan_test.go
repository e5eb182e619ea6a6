package loadbalancer

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"kontiki/controllers/plantest"
)

type input struct {
	Services []*corev1.Service                       `json:"services"`
	Nodes    []*corev1.Node                          `json:"nodes"`
	Slices   map[string][]*discoveryv1.EndpointSlice `json:"slices"`
	Reserved []int32                                 `json:"reserved"`
}

type output struct {
	Addresses []string `json:"addresses,omitempty"`
	Refused   string   `json:"refused,omitempty"`
}

func TestPlan(t *testing.T) {
	plantest.Run(t, func(in input) map[string]output {
		out := map[string]output{}
		for key, d := range plan(in.Services, in.Nodes, in.Slices, in.Reserved) {
			o := output{Refused: d.Refused}
			for _, i := range d.Ingress {
				o.Addresses = append(o.Addresses, i.IP)
			}
			out[key] = o
		}
		return out
	})
}
