package agent_test

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"kontiki/runtime/shim/shimtest"
)

// TestSidecars: init containers run one after the other, a sidecar counts once it has started, is begun anew
// whatever the pod's policy, and ends after the main containers have.
func TestSidecars(t *testing.T) {
	l := newLab(t)
	always := corev1.ContainerRestartPolicyAlways
	l.pod("web", func(p *corev1.Pod) {
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		c := func(name string, args ...string) corev1.Container {
			return corev1.Container{Name: name, Image: "probe:1", Args: args, VolumeMounts: []corev1.VolumeMount{{Name: "shared", MountPath: "/shared"}}}
		}
		p.Spec.Volumes = []corev1.Volume{{Name: "shared", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
		side := c("side", "term")
		side.RestartPolicy = &always
		side.StartupProbe = &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"/probe", "file", "/shared/first"}}}}
		// Each reads what the one before it wrote; the sidecar's start is what the last one waits for.
		p.Spec.InitContainers = []corev1.Container{c("first", "write", "/shared/first", "x"), side, c("last", "file", "/shared/first")}
		p.Spec.Containers[0] = c("c", "term")
	})
	p := l.wait("web", "to be ready", ready)
	first, side, last, main := p.Status.InitContainerStatuses[0], p.Status.InitContainerStatuses[1], p.Status.InitContainerStatuses[2], p.Status.ContainerStatuses[0]
	if first.State.Terminated == nil || first.State.Terminated.ExitCode != 0 || last.State.Terminated == nil || last.State.Terminated.ExitCode != 0 || side.State.Running == nil || side.Started == nil || !*side.Started || !side.Ready {
		t.Fatalf("init containers: %+v", p.Status.InitContainerStatuses)
	}
	order := []int64{first.State.Terminated.FinishedAt.Unix(), side.State.Running.StartedAt.Unix(), last.State.Terminated.StartedAt.Unix(), main.State.Running.StartedAt.Unix()}
	for i := 1; i < len(order); i++ {
		if order[i] < order[i-1] {
			t.Errorf("times of first, sidecar, last, main: %v", order)
		}
	}
	if err := l.env.Client.Signal(l.env.Context(), "uid-web.side.0", unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p = l.wait("web", "to have its sidecar again", func(p *corev1.Pod) bool {
		s := p.Status.InitContainerStatuses[1]
		return s.RestartCount == 1 && s.State.Running != nil && s.Started != nil && *s.Started
	})
	if s := p.Status.ContainerStatuses[0]; s.RestartCount != 0 || s.ContainerID != main.ContainerID || p.Status.Phase != corev1.PodRunning {
		t.Errorf("the main container: %+v, phase %s", s, p.Status.Phase)
	}
	for _, container := range []string{"side", "c"} {
		shimtest.Eventually(t, container+" to hear SIGTERM", func() bool { return strings.Contains(l.logs("web/"+container), "ready") })
	}
	if err := l.env.Client.Signal(l.env.Context(), "uid-web.c.0", unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p = l.wait("web", "to have failed", func(p *corev1.Pod) bool {
		return p.Status.Phase == corev1.PodFailed && p.Status.InitContainerStatuses[1].State.Terminated != nil
	})
	is, was := p.Status.InitContainerStatuses[1].State.Terminated, p.Status.ContainerStatuses[0].State.Terminated
	if is.ExitCode != 7 || was == nil || was.ExitCode != 7 || is.FinishedAt.Before(&was.FinishedAt) {
		t.Errorf("the sidecar ended as %+v, the main container as %+v", is, was)
	}
	l.delete("web", 1)
	l.clean()
}
