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
	Overdue   []string `json:"overdue,omitempty"`
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
		todo := plan(w)
		if todo.again > 0 {
			out.Again = todo.again.String()
		}
		for _, pod := range todo.overdue {
			out.Overdue = append(out.Overdue, pod.Name)
		}
		if s := todo.status; s != nil {
			out.Status = fmt.Sprintf("%d expected, %d desired, %d healthy, %d allowed, %s", s.ExpectedPods, s.DesiredHealthy, s.CurrentHealthy, s.DisruptionsAllowed, s.Conditions[0].Reason)
			if s.ObservedGeneration != in.Budget.Generation {
				out.Status += ", of an earlier generation"
			}
			for name := range s.DisruptedPods {
				out.Disrupted = append(out.Disrupted, name)
			}
			slices.Sort(out.Disrupted)
		}
		return out
	})
}

// TestClaimsToGo: a pod may say for two minutes that it is going while nobody deletes it.
func TestClaimsToGo(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, test := range map[string]struct {
		change func(*corev1.Pod)
		wait   time.Duration
		claims bool
	}{
		"a minute ago":          {func(*corev1.Pod) {}, time.Minute, true},
		"long ago":              {func(p *corev1.Pod) { p.Status.Conditions[0].LastTransitionTime = metav1.NewTime(now.Add(-time.Hour)) }, 0, true},
		"taken back":            {func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }, 0, false},
		"it is being deleted":   {func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: now} }, 0, false},
		"it has ended":          {func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }, 0, false},
		"its agent says so":     {func(p *corev1.Pod) { p.Status.Conditions[0].Reason = corev1.PodReasonTerminationByKubelet }, 0, false},
		"it never said a thing": {func(p *corev1.Pod) { p.Status.Conditions = nil }, 0, false},
	} {
		pod := &corev1.Pod{Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "EvictionByEvictionAPI", LastTransitionTime: metav1.NewTime(now.Add(-time.Minute)),
		}}}}
		test.change(pod)
		if wait, claims := claimsToGo(pod, now); wait != test.wait || claims != test.claims {
			t.Errorf("%s: %v, %v; want %v, %v", name, wait, claims, test.wait, test.claims)
		}
	}
}
