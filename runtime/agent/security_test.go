package agent_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestSecurity has one real container for each thing a security context can ask for.
func TestSecurity(t *testing.T) {
	l := newLab(t)
	if err := os.MkdirAll(filepath.Join(l.data, "seccomp"), 0o700); err != nil {
		t.Fatal(err)
	}
	profile := `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["symlinkat","symlink"],"action":"SCMP_ACT_ERRNO","errnoRet":95}]}`
	if err := os.WriteFile(filepath.Join(l.data, "seccomp", "nolinks.json"), []byte(profile), 0o600); err != nil {
		t.Fatal(err)
	}
	unmasked, strict := corev1.UnmaskedProcMount, corev1.SupplementalGroupsPolicyStrict
	status := []string{"file", "/proc/self/status"}
	cases := []struct {
		name   string
		pod    *corev1.PodSecurityContext
		own    *corev1.SecurityContext
		args   []string
		wants  []string // in the log
		failed bool     // the program
	}{
		{"nothing-asked", nil, nil, status, []string{"NoNewPrivs:\t0", "Seccomp:\t2", "CapEff:\t00000000a80425fb"}, false},
		{"forbidden-call", nil, nil, []string{"unshare"}, []string{"operation not permitted"}, true},
		{"masked", nil, nil, []string{"stat", "/proc/interrupts"}, []string{"/proc/interrupts 666 0 0\n"}, false}, // /dev/null
		{"read-only-path", nil, nil, []string{"write", "/proc/sys/kernel/domainname", "x"}, []string{"read-only file system"}, true},
		{"users", &corev1.PodSecurityContext{RunAsUser: ptr(int64(1000)), RunAsGroup: ptr(int64(2000)), RunAsNonRoot: ptr(true), FSGroup: ptr(int64(3000)), SupplementalGroups: []int64{4000}, SupplementalGroupsPolicy: &strict},
			nil, []string{"who"}, []string{"uid=1000 gid=2000 groups=[3000 4000]"}, false},
		{"own-user", &corev1.PodSecurityContext{RunAsUser: ptr(int64(1000))}, &corev1.SecurityContext{RunAsUser: ptr(int64(1001)), RunAsGroup: ptr(int64(1002))}, []string{"who"}, []string{"uid=1001 gid=1002"}, false},
		{"capabilities", nil, &corev1.SecurityContext{Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"NET_BIND_SERVICE"}}}, status, []string{"CapEff:\t0000000000000400", "CapBnd:\t0000000000000400"}, false},
		{"privileged", nil, &corev1.SecurityContext{Privileged: ptr(true)}, status, []string{"Seccomp:\t0", "CapEff:\t" + bounding(t)}, false},
		{"read-only-root", nil, &corev1.SecurityContext{ReadOnlyRootFilesystem: ptr(true)}, []string{"write", "/x", "y"}, []string{"read-only file system"}, true},
		{"no-escalation", nil, &corev1.SecurityContext{AllowPrivilegeEscalation: ptr(false)}, status, []string{"NoNewPrivs:\t1"}, false},
		{"unconfined", nil, &corev1.SecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeUnconfined}}, status, []string{"Seccomp:\t0"}, false},
		{"pods-profile", &corev1.PodSecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeUnconfined}}, nil, status, []string{"Seccomp:\t0"}, false},
		{"own-profile", nil, &corev1.SecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeLocalhost, LocalhostProfile: ptr("nolinks.json")}}, []string{"make-link", "a", "/b"}, []string{"operation not supported"}, true},
		{"privileged-unmasked", nil, &corev1.SecurityContext{Privileged: ptr(true), ProcMount: &unmasked}, []string{"stat", "/proc/interrupts"}, []string{"/proc/interrupts 444 0 0\n"}, false},
	}
	for _, c := range cases {
		l.pod(c.name, func(p *corev1.Pod) {
			p.Spec.RestartPolicy = corev1.RestartPolicyNever
			p.Spec.SecurityContext, p.Spec.Containers[0].SecurityContext = c.pod, c.own
		}, c.args...)
	}
	for _, c := range cases {
		p := l.wait(c.name, "to end", func(p *corev1.Pod) bool {
			return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
		})
		got := l.logs(c.name + "/c")
		if failed := p.Status.Phase == corev1.PodFailed; failed != c.failed {
			t.Errorf("%s: %s, it says %q; %+v", c.name, p.Status.Phase, got, p.Status.ContainerStatuses[0].State.Terminated)
		}
		for _, want := range c.wants {
			if !strings.Contains(got, want) {
				t.Errorf("%s: it says %q, without %q", c.name, got, want)
			}
		}
		l.delete(c.name, 1)
	}
	l.clean()
}

// TestWhatSecurityRefuses shows wrong specifications as a user sees them.
func TestWhatSecurityRefuses(t *testing.T) {
	l := newLab(t)
	nonRoot, unmasked := ptr(true), corev1.UnmaskedProcMount
	for name, c := range map[string]struct {
		own             *corev1.SecurityContext
		reason, message string
	}{
		"root-image": {&corev1.SecurityContext{RunAsNonRoot: nonRoot}, "CreateContainerConfigError",
			`container has runAsNonRoot and image will run as root (pod: "root-image_default(uid-root-image)", container: c)`},
		"root-user": {&corev1.SecurityContext{RunAsNonRoot: nonRoot, RunAsUser: ptr(int64(0))}, "CreateContainerConfigError",
			`container's runAsUser breaks non-root policy (pod: "root-user_default(uid-root-user)", container: c)`},
		"unmasked": {&corev1.SecurityContext{ProcMount: &unmasked}, "CreateContainerConfigError",
			"procMount Unmasked needs a user namespace, and the runtime does not support user namespaces"},
		"no-profile": {&corev1.SecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeLocalhost, LocalhostProfile: ptr("absent.json")}}, "CreateContainerError",
			`cannot load seccomp profile "` + filepath.Join(l.data, "seccomp", "absent.json") + `": stat ` + filepath.Join(l.data, "seccomp", "absent.json") + `: no such file or directory`},
	} {
		l.pod(name, func(p *corev1.Pod) { p.Spec.Containers[0].SecurityContext = c.own }, "run")
		p := l.wait(name, "to be refused", func(p *corev1.Pod) bool {
			return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Waiting != nil && p.Status.ContainerStatuses[0].State.Waiting.Message != ""
		})
		if w := p.Status.ContainerStatuses[0].State.Waiting; w.Reason != c.reason || w.Message != c.message {
			t.Errorf("%s: %s: %s", name, w.Reason, w.Message)
		}
		l.told(name, "Failed", "Error: "+c.message)
		l.delete(name, 1)
	}
	l.clean()
}

// bounding is what this machine can give, as the kernel writes it.
func bounding(t *testing.T) string {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "CapBnd:\t")
	value, _, _ := strings.Cut(rest, "\n")
	return value
}
