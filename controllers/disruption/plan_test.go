package disruption

import (
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kontiki/controllers/plantest"
)

type input struct {
	Budget  policyv1.PodDisruptionBudget `json:"budget"`
	Healthy []string                     `json:"healthy"`
	Sick    []string                     `json:"sick"`
	Leaving []string                     `json:"leaving"`
	Scale   int                          `json:"scale"`
	Unknown string                       `json:"unknown"`
}

type output struct {
	Status    string   `json:"status,omitempty"`
	Disrupted []string `json:"disrupted,omitempty"`
	Again     string   `json:"again,omitempty"`
}

func TestPlan(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	plantest.Run(t, func(in input) output {
		w := world{budget: &in.Budget, scale: in.Scale, unknown: in.Unknown, now: now}
		add := func(names []string, ready corev1.ConditionStatus, leaving bool) {
			for _, name := range names {
				pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.PodStatus{
					Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}},
				}}
				if leaving {
					pod.DeletionTimestamp = &metav1.Time{Time: now}
				}
				w.pods = append(w.pods, pod)
			}
		}
		add(in.Healthy, corev1.ConditionTrue, false)
		add(in.Sick, corev1.ConditionFalse, false)
		add(in.Leaving, corev1.ConditionTrue, true)
		var out output
		s, again := plan(w)
		if again > 0 {
			out.Again = again.String()
		}
		if s != nil {
			out.Status = fmt.Sprintf("%d expected, %d desired, %d healthy, %d allowed, %s", s.ExpectedPods, s.DesiredHealthy, s.CurrentHealthy, s.DisruptionsAllowed, s.Conditions[0].Reason)
			for name := range s.DisruptedPods {
				out.Disrupted = append(out.Disrupted, name)
			}
			slices.Sort(out.Disrupted)
		}
		return out
	})
}
