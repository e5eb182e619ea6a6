package agent_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kontiki/runtime/shim/shimtest"
)

func ptr[T any](v T) *T { return &v }

func succeeded(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded }

// probe is a container that runs /probe with args.
func probe(name string, args ...string) corev1.Container {
	return corev1.Container{Name: name, Image: "probe:1", ImagePullPolicy: corev1.PullNever, Args: args}
}

// update changes a pod as a user of the API does.
func (l *lab) update(name string, change func(*corev1.Pod)) {
	l.t.Helper()
	p := l.wait(name, "to exist", func(*corev1.Pod) bool { return true })
	change(p)
	if _, err := l.client.CoreV1().Pods("default").Update(l.env.Context(), p, metav1.UpdateOptions{}); err != nil {
		l.t.Fatal(err)
	}
}

// event waits for an event about a pod.
func (l *lab) event(pod, reason, words string) {
	l.t.Helper()
	shimtest.Eventually(l.t, fmt.Sprintf("event %s of pod %s with %q", reason, pod, words), func() bool {
		list, err := l.client.CoreV1().Events("default").List(context.Background(), metav1.ListOptions{})
		return err == nil && slices.ContainsFunc(list.Items, func(e corev1.Event) bool {
			return e.InvolvedObject.Name == pod && e.Reason == reason && strings.Contains(e.Message, words)
		})
	})
}

func TestNamespacesThatArePodsOwnOrShared(t *testing.T) {
	l := newLab(t)
	l.pod("shared", func(p *corev1.Pod) {
		p.Spec.ShareProcessNamespace = ptr(true)
		p.Spec.Containers = append(p.Spec.Containers, probe("see", "processes-then-run"))
	}, "term")
	l.pod("host", func(p *corev1.Pod) {
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		p.Spec.HostPID, p.Spec.HostIPC = true, true
		p.Spec.Containers = []corev1.Container{probe("ipc", "link", "/proc/self/ns/ipc"), probe("pid", "link", "/proc/self/ns/pid")}
	})
	l.pod("own", func(p *corev1.Pod) {
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		p.Spec.Containers = []corev1.Container{probe("ipc", "link", "/proc/self/ns/ipc"), probe("pid", "link", "/proc/self/ns/pid"), probe("net", "link", "/proc/self/ns/net"), probe("uts", "link", "/proc/self/ns/uts")}
	})
	l.pod("wire", func(p *corev1.Pod) {
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		p.Spec.HostNetwork = true
		p.Spec.Containers = []corev1.Container{probe("net", "link", "/proc/self/ns/net"), probe("uts", "link", "/proc/self/ns/uts")}
	})
	l.wait("shared", "to be ready", ready)
	shimtest.Eventually(t, "each container of the pod to see the other's processes", func() bool {
		got := l.logs("shared/see")
		return strings.Contains(got, "1 /pause pause\n") && strings.Contains(got, "/probe term\n")
	})
	l.wait("host", "to succeed", succeeded)
	l.wait("own", "to succeed", succeeded)
	if p := l.wait("wire", "to succeed", succeeded); p.Status.PodIP != p.Status.HostIP || p.Status.PodIP != "192.0.2.7" {
		t.Errorf("a pod in the host's network has the address %s, the host %s", p.Status.PodIP, p.Status.HostIP)
	}
	for ns, sharer := range map[string]string{"ipc": "host", "pid": "host", "net": "wire", "uts": "wire"} {
		hosts, err := os.Readlink("/proc/self/ns/" + ns)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSpace(l.logs(sharer + "/" + ns)); got != hosts {
			t.Errorf("%s namespace of a pod that shares the host's: %s, the host's is %s", ns, got, hosts)
		}
		if got := strings.TrimSpace(l.logs("own/" + ns)); got == hosts || got == "" {
			t.Errorf("%s namespace of an ordinary pod: %q, the host's is %s", ns, got, hosts)
		}
	}
	for _, name := range []string{"shared", "host", "own", "wire"} {
		l.delete(name, 5)
	}
	l.clean()
}

func TestEphemeralContainers(t *testing.T) {
	l := newLab(t)
	l.pod("web", func(p *corev1.Pod) {
		done := probe("done", "exit", "0")
		p.Spec.Containers = append(p.Spec.Containers, done)
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
	}, "term")
	debug := func(name, target string, args ...string) {
		l.update("web", func(p *corev1.Pod) {
			p.Spec.EphemeralContainers = append(p.Spec.EphemeralContainers, corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon(probe(name, args...)), TargetContainerName: target})
		})
	}
	state := func(p *corev1.Pod, name string) corev1.ContainerState {
		for _, s := range p.Status.EphemeralContainerStatuses {
			if s.Name == name {
				return s.State
			}
		}
		return corev1.ContainerState{}
	}
	l.wait("web", "to run", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 2 && p.Status.ContainerStatuses[0].State.Running != nil && p.Status.ContainerStatuses[1].State.Terminated != nil
	})
	debug("look", "c", "processes")
	p := l.wait("web", "its ephemeral container to end", func(p *corev1.Pod) bool { return state(p, "look").Terminated != nil })
	if s := state(p, "look").Terminated; s.ExitCode != 0 || s.Reason != "Completed" || p.Status.Phase != corev1.PodRunning || p.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("%+v of %+v", s, p.Status)
	}
	if got := l.logs("web/look"); !strings.Contains(got, "1 /probe term\n") {
		t.Errorf("it has seen %q", got)
	}
	debug("miss", "done", "processes")
	p = l.wait("web", "an ephemeral container without its target to be refused", func(p *corev1.Pod) bool {
		return state(p, "miss").Waiting != nil && state(p, "miss").Waiting.Message != ""
	})
	if w := state(p, "miss").Waiting; w.Reason != "CreateContainerConfigError" || w.Message != "unable to find target container done" {
		t.Errorf("%+v", w)
	}
	debug("stay", "", "term")
	l.wait("web", "a third to run", func(p *corev1.Pod) bool { return state(p, "stay").Running != nil })
	l.delete("web", 10)
	l.clean()
}

func TestRefusedPods(t *testing.T) {
	l := newLab(t)
	sysctl := func(name string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: name, Value: "1"}}}
		}
	}
	asks := func(name corev1.ResourceName, amount string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{name: resource.MustParse(amount)}
		}
	}
	for _, tc := range []struct {
		name, reason, message string
		change                func(*corev1.Pod)
	}{
		{"unsafe", "SysctlForbidden", `Pod was rejected: forbidden sysctl: "kernel.msgmax" not allowlisted`, sysctl("kernel.msgmax")},
		{"hosts", "SysctlForbidden", `Pod was rejected: forbidden sysctl: "net.ipv4.tcp_syncookies" not allowed with host Net enabled`, func(p *corev1.Pod) {
			sysctl("net/ipv4/tcp_syncookies")(p)
			p.Spec.HostNetwork = true
		}},
		{"greedy", "OutOfcpu", "Pod was rejected: Node didn't have enough resource: cpu, requested: 1000000, used: 0, capacity: ", asks(corev1.ResourceCPU, "1000")},
		{"huge", "OutOfmemory", "Pod was rejected: Node didn't have enough resource: memory, requested: 1125899906842624, used: 0, capacity: ", asks(corev1.ResourceMemory, "1Pi")},
		{"foreign", "PodOSNotSupported", "Pod was rejected: Failed to admit pod as the OS field doesn't match node OS", func(p *corev1.Pod) { p.Spec.OS = &corev1.PodOS{Name: corev1.Windows} }},
	} {
		l.pod(tc.name, tc.change, "run")
		p := l.wait(tc.name, "to be refused", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
		if p.Status.Reason != tc.reason || !strings.HasPrefix(p.Status.Message, tc.message) {
			t.Errorf("%s: %s: %s", tc.name, p.Status.Reason, p.Status.Message)
		}
		l.event(tc.name, tc.reason, strings.TrimPrefix(tc.message, "Pod was rejected: "))
		l.delete(tc.name, 1)
	}
	l.clean()
}

func TestRuntimeClasses(t *testing.T) {
	l := newLab(t)
	for name, handler := range map[string]string{"plain": "runc", "strange": "kata"} {
		if _, err := l.client.NodeV1().RuntimeClasses().Create(l.env.Context(), &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Handler: handler}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	of := func(class string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.RuntimeClassName = &class }
	}
	l.pod("plain", of("plain"), "run")
	l.pod("strange", of("strange"), "run")
	l.pod("unknown", of("unknown"), "run")
	l.wait("plain", "to be ready", ready)
	l.event("strange", "FailedCreatePodSandBox", `no runtime for "kata" is configured`)
	l.event("unknown", "FailedCreatePodSandBox", `runtimeclasses.node.k8s.io "unknown" not found`)
	for _, name := range []string{"plain", "strange", "unknown"} {
		l.delete(name, 1)
	}
	l.clean()
}

func TestWhatAPodIsTold(t *testing.T) {
	l := newLab(t)
	if _, err := l.client.CoreV1().ConfigMaps("default").Create(l.env.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "conf", Namespace: "default"}, Data: map[string]string{"key": "value"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	resources := corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")}, Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("250m")}}
	l.pod("told", func(p *corev1.Pod) {
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		p.Spec.Subdomain, p.Spec.SetHostnameAsFQDN = "sub", ptr(true)
		p.Spec.DNSPolicy = corev1.DNSNone
		p.Spec.DNSConfig = &corev1.PodDNSConfig{Nameservers: []string{"192.0.2.53"}, Searches: []string{"one.example", "two.example"}, Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: ptr("2")}, {Name: "edns0"}}}
		p.Spec.HostAliases = []corev1.HostAlias{{IP: "192.0.2.1", Hostnames: []string{"one.example", "two.example"}}}
		p.Spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: "net.ipv4.ip_unprivileged_port_start", Value: "77"}}}
		who := probe("who", "who")
		who.Resources = resources
		who.EnvFrom = []corev1.EnvFromSource{{Prefix: "P_", ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "conf"}}},
			{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "none"}, Optional: ptr(true)}}}
		field := func(res, divisor string) *corev1.EnvVarSource {
			return &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: res, Divisor: resource.MustParse(divisor)}}
		}
		who.Env = []corev1.EnvVar{{Name: "MEMORY", ValueFrom: field("limits.memory", "1Mi")}, {Name: "CPU", ValueFrom: field("requests.cpu", "1m")}, {Name: "WHOLE", ValueFrom: field("requests.cpu", "1")}}
		last := probe("last", "say-then", "the last words", "3")
		last.TerminationMessagePolicy = corev1.TerminationMessageFallbackToLogsOnError
		long := probe("long", "write", "/dev/termination-log", strings.Repeat("x", 5000)+"end")
		p.Spec.Containers = []corev1.Container{who, last, long, probe("hosts", "file", "/etc/hosts"), probe("resolver", "file", "/etc/resolv.conf"), probe("sysctl", "file", "/proc/sys/net/ipv4/ip_unprivileged_port_start")}
	})
	p := l.wait("told", "to end, and its log to be read", func(p *corev1.Pod) bool {
		return p.Status.Phase == corev1.PodFailed && slices.ContainsFunc(p.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool {
			return s.Name == "last" && s.State.Terminated != nil && s.State.Terminated.Message != ""
		})
	})
	for container, wanted := range map[string][]string{
		"who":      {`"P_key=value"`, `"MEMORY=64"`, `"CPU=250"`, `"WHOLE=1"`, "host=told.sub.default.svc.cluster.local"},
		"hosts":    {"# Entries added by HostAliases.\n192.0.2.1\tone.example\ttwo.example\n", "127.0.0.1\ttold.sub.default.svc.cluster.local\ttold\n"},
		"sysctl":   {"77\n"},
		"resolver": {"search one.example two.example\nnameserver 192.0.2.53\noptions ndots:2 edns0\n"},
	} {
		got := l.logs("told/" + container)
		for _, w := range wanted {
			if !strings.Contains(got, w) {
				t.Errorf("%s: no %q in %q", container, w, got)
			}
		}
	}
	for _, s := range p.Status.ContainerStatuses {
		switch end := s.State.Terminated; {
		case s.Name == "last" && (end.Reason != "Error" || end.ExitCode != 3 || !strings.Contains(end.Message, "the last words")):
			t.Errorf("%+v", end)
		case s.Name == "long" && (len(end.Message) != 4096 || !strings.HasSuffix(end.Message, "xend")):
			t.Errorf("the message has %d bytes", len(end.Message))
		}
	}
	l.pod("wrong", func(p *corev1.Pod) {
		p.Spec.Subdomain, p.Spec.SetHostnameAsFQDN = strings.Repeat("s", 60), ptr(true)
	}, "run")
	l.event("wrong", "FailedCreatePodSandBox", "failed to construct FQDN from Pod hostname and cluster domain, FQDN wrong.")
	l.pod("without", func(p *corev1.Pod) {
		p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "none"}}}}
	}, "run")
	p = l.wait("without", "to tell what is missing", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Waiting != nil && p.Status.ContainerStatuses[0].State.Waiting.Message != ""
	})
	if w := p.Status.ContainerStatuses[0].State.Waiting; w.Reason != "CreateContainerConfigError" || !strings.Contains(w.Message, `"none" not found`) {
		t.Errorf("%+v", w)
	}
	l.pod("keyless", func(p *corev1.Pod) {
		p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "KEY", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "conf"}, Key: "none"}}}}
	}, "run")
	p = l.wait("keyless", "to tell which key is missing", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Waiting != nil && p.Status.ContainerStatuses[0].State.Waiting.Message != ""
	})
	if w := p.Status.ContainerStatuses[0].State.Waiting; w.Reason != "CreateContainerConfigError" || w.Message != "couldn't find key none in ConfigMap default/conf" {
		t.Errorf("%+v", w)
	}
	for _, name := range []string{"told", "wrong", "without", "keyless"} {
		l.delete(name, 1)
	}
	l.clean()
}

func TestReadinessGatesAndDeadlines(t *testing.T) {
	l := newLab(t)
	l.pod("gated", func(p *corev1.Pod) {
		p.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "example.com/open"}}
	}, "run")
	p := l.wait("gated", "its containers to be ready", func(p *corev1.Pod) bool {
		return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.ContainersReady && c.Status == corev1.ConditionTrue
		})
	})
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && (c.Status != corev1.ConditionFalse || c.Reason != "ReadinessGatesNotReady" || c.Message != `corresponding condition of pod readiness gate "example.com/open" does not exist.`) {
			t.Errorf("%+v", c)
		}
	}
	p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: "example.com/open", Status: corev1.ConditionTrue})
	if _, err := l.client.CoreV1().Pods("default").UpdateStatus(l.env.Context(), p, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	l.wait("gated", "to be ready once its gate is open", ready)
	// Its start is told in whole seconds: one would end it before it hears SIGTERM.
	l.pod("brief", func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr(int64(2)) }, "term")
	p = l.wait("brief", "to overrun its deadline", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	if p.Status.Reason != "DeadlineExceeded" || p.Status.Message != "Pod was active on the node longer than the specified deadline" {
		t.Errorf("%s: %s", p.Status.Reason, p.Status.Message)
	}
	l.delete("gated", 1)
	l.delete("brief", 1)
	l.clean()
}
