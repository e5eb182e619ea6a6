package agent

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// TestWhatIsRefused: what a node cannot do for a pod is said before anything of it runs.
func TestWhatIsRefused(t *testing.T) {
	room := corev1.ResourceList{corev1.ResourcePods: resource.MustParse("110")}
	for name, c := range map[string]struct {
		change          func(*corev1.Pod)
		reason, message string
	}{
		"nothing asked":  {func(*corev1.Pod) {}, "", ""},
		"the host's ids": {func(p *corev1.Pod) { p.Spec.HostUsers = new(true) }, "", ""},
		"ids of its own": {
			func(p *corev1.Pod) { p.Spec.HostUsers = new(false) },
			"UserNamespacesNotSupported", "can't set `spec.hostUsers: false`, runtime does not support user namespaces",
		},
		"a profile": {
			func(p *corev1.Pod) {
				p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{AppArmorProfile: &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost, LocalhostProfile: new("strict")}}
			},
			"AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host",
		},
		"no profile": {func(p *corev1.Pod) {
			p.Spec.SecurityContext = &corev1.PodSecurityContext{AppArmorProfile: &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined}}
		}, "", ""},
	} {
		p := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}}
		c.change(p)
		no := refuse(p, nil, room, nil)
		if no == nil {
			no = &refusal{}
		}
		if no.reason != c.reason || no.message != c.message {
			t.Errorf("%s: %s: %s", name, no.reason, no.message)
		}
	}
}
