package nodelifecycle

import (
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kontiki/controllers/plantest"
)

type input struct {
	Now    metav1.Time   `json:"now"`
	Node   corev1.Node   `json:"node"`
	Ring   State         `json:"ring"` // empty: the ring does not know it
	Absent int           `json:"absentSeconds"`
	Pods   []*corev1.Pod `json:"pods"`
}

type output struct {
	Conditions []string `json:"conditions,omitempty"`
	Taints     []string `json:"taints,omitempty"`
	Evict      []string `json:"evict,omitempty"`
}

func TestPlan(t *testing.T) {
	plantest.Run(t, func(in input) output {
		now := in.Now.Time
		v := judge(Member{State: in.Ring}, in.Ring != "", now.Add(-time.Duration(in.Absent)*time.Second), now, absentGrace)
		conditions := conditionsOf(&in.Node, v, now)
		taints := taintsOf(&in.Node, conditions, now)
		var out output
		for _, c := range conditions {
			out.Conditions = append(out.Conditions, fmt.Sprintf("%s=%s %s", c.Type, c.Status, c.Reason))
		}
		for _, taint := range taints {
			age := "no time"
			if taint.TimeAdded != nil {
				age = now.Sub(taint.TimeAdded.Time).String()
			}
			out.Taints = append(out.Taints, fmt.Sprintf("%s:%s %s", taint.Key, taint.Effect, age))
		}
		for _, pod := range in.Pods {
			if e := evictionOf(pod, taints, fallbackToleration, now); e.evict {
				out.Evict = append(out.Evict, fmt.Sprintf("%s in %v", pod.Name, e.after))
			}
		}
		slices.Sort(out.Conditions)
		// A second pass over what was written has nothing to do.
		again := in.Node.DeepCopy()
		again.Status.Conditions, again.Spec.Taints = conditions, taints
		if c := conditionsOf(again, v, now.Add(time.Second)); !sameConditions(c, conditions) {
			t.Errorf("a second pass changes conditions: %+v", c)
		}
		if tt := taintsOf(again, conditions, now.Add(time.Second)); !sameTaints(tt, taints) {
			t.Errorf("a second pass changes taints: %+v", tt)
		}
		return out
	})
}
