package endpoints

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"kontiki/controllers/plantest"
)

type input struct {
	Service corev1.Service    `json:"service"`
	Pods    []*corev1.Pod     `json:"pods"`
	Copies  int               `json:"copies"` // of the first pod
	Have    *corev1.Endpoints `json:"have"`
}

type output struct {
	Ready    []string          `json:"ready,omitempty"`
	NotReady []string          `json:"notReady,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	Over     string            `json:"over,omitempty"`
	Count    int               `json:"count,omitempty"`
}

func TestPlan(t *testing.T) {
	plantest.Run(t, func(in input) output {
		for i := 1; i < in.Copies; i++ {
			pod := in.Pods[0].DeepCopy()
			pod.UID, pod.Status.PodIP = types.UID(fmt.Sprint(i)), fmt.Sprintf("10.1.%d.%d", i/250, i%250)
			in.Pods = append(in.Pods, pod)
		}
		next := plan(&in.Service, in.Pods, in.Have)
		if next == nil {
			return output{}
		}
		out := output{Labels: next.Labels, Over: next.Annotations[corev1.EndpointsOverCapacity]}
		for _, s := range next.Subsets {
			ports := ""
			for _, p := range s.Ports {
				ports += fmt.Sprintf(" %s=%d/%s", p.Name, p.Port, p.Protocol)
			}
			for _, a := range s.Addresses {
				out.Ready = append(out.Ready, a.IP+ports)
			}
			for _, a := range s.NotReadyAddresses {
				out.NotReady = append(out.NotReady, a.IP+ports)
			}
		}
		if out.Count = len(out.Ready) + len(out.NotReady); out.Count > 10 {
			out.Ready, out.NotReady = nil, nil
		} else {
			out.Count = 0
		}
		return out
	})
}
