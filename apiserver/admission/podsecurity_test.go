package admission

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	securityapi "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

// TestUserNamespacesRelaxNothing gives a pod that asks for a user namespace what only
// such pods may have: no node would make it one.
func TestUserNamespacesRelaxNothing(t *testing.T) {
	standards, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		level   securityapi.Level
		context corev1.SecurityContext
	}{
		"all of /proc": {securityapi.LevelBaseline, corev1.SecurityContext{ProcMount: new(corev1.UnmaskedProcMount)}},
		"root":         {securityapi.LevelRestricted, corev1.SecurityContext{RunAsUser: new(int64(0))}},
	} {
		spec := &corev1.PodSpec{HostUsers: new(false), Containers: []corev1.Container{{Name: "c", SecurityContext: &c.context}}}
		refusals := func(e policy.Evaluator, spec *corev1.PodSpec) int {
			n := 0
			for _, r := range e.EvaluatePod(securityapi.LevelVersion{Level: c.level, Version: securityapi.LatestVersion()}, &metav1.ObjectMeta{}, spec) {
				if !r.Allowed {
					n++
				}
			}
			return n
		}
		without := spec.DeepCopy()
		without.HostUsers = nil
		if got, want := refusals(hostsUsers{standards}, spec), refusals(standards, without); got != want || got == 0 {
			t.Errorf("%s: %d refusals, want the %d without a user namespace", name, got, want)
		}
		if spec.HostUsers == nil {
			t.Error("the pod itself was changed")
		}
	}
}
