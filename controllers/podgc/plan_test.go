package podgc

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kontiki/controllers/plantest"
)

type input struct {
	Now       metav1.Time            `json:"now"`
	Threshold int                    `json:"threshold"`
	Missing   map[string]metav1.Time `json:"missing"`
	Nodes     []*corev1.Node         `json:"nodes"`
	Pods      []*corev1.Pod          `json:"pods"`
}

type output struct {
	Remove map[string]reason `json:"remove,omitempty"`
	Again  string            `json:"again,omitempty"`
}

func TestPlan(t *testing.T) {
	plantest.Run(t, func(in input) output {
		missing := map[string]time.Time{}
		for node, since := range in.Missing {
			missing[node] = since.Time
		}
		out := map[string]bool{}
		for _, node := range in.Nodes {
			out[node.Name] = outOfService(node)
		}
		victims, again := plan(in.Pods, missing, out, in.Threshold, quarantine, in.Now.Time)
		result := output{Remove: map[string]reason{}}
		for _, v := range victims {
			result.Remove[v.pod.Name] = v.why
		}
		if again > 0 {
			result.Again = again.String()
		}
		return result
	})
}
