package agent_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"

	"kontiki/runtime/agent"
	"kontiki/runtime/image"
	"kontiki/runtime/shim"
	"kontiki/runtime/shim/shimtest"
)

func TestMain(m *testing.M) { shimtest.Main(m) }

// network is a double: addresses without a network.
type network struct {
	mu       sync.Mutex
	attached map[string]string // uid → namespace path
}

func (n *network) Attach(_ context.Context, p agent.PodAttachment) ([]netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, err := os.Stat(p.NetNS); err != nil {
		return nil, err
	}
	n.attached[p.UID] = p.NetNS
	return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
}

func (n *network) Retain(_ context.Context, uids []string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for uid := range n.attached {
		if !slices.Contains(uids, uid) {
			delete(n.attached, uid)
		}
	}
	return nil
}

func (n *network) Detach(_ context.Context, uid string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.attached, uid)
	return nil
}

// lab is an agent with a real shim and a client that is a double.
type lab struct {
	t      testing.TB
	env    *shimtest.Env
	client kubernetes.Interface
	net    *network
	data   string
	agent  *agent.Agent
	stop   func()
	// crowded: an API server lives in this process, whose goroutines come and go.
	crowded    bool
	registries image.Registries
}

func newLab(t testing.TB) *lab {
	l := prepareLab(t)
	l.begin()
	t.Cleanup(func() { l.stop() })
	return l
}

// fakeAPI is a client whose status updates change the status alone, as an API server's do.
func fakeAPI() kubernetes.Interface {
	c := fake.NewClientset()
	pods := corev1.SchemeGroupVersion.WithResource("pods")
	c.PrependReactor("update", "pods", func(action ktesting.Action) (bool, runtime.Object, error) {
		if action.GetSubresource() != "status" {
			return false, nil, nil
		}
		sent := action.(ktesting.UpdateAction).GetObject().(*corev1.Pod)
		cur, err := c.Tracker().Get(pods, sent.Namespace, sent.Name)
		if err != nil {
			return true, nil, err
		}
		next := cur.(*corev1.Pod).DeepCopy()
		next.Status = sent.Status
		return true, next, c.Tracker().Update(pods, next, sent.Namespace)
	})
	return c
}

// prepareLab is a lab whose agent does not run yet.
func prepareLab(t testing.TB) *lab {
	l := emptyLab(t)
	l.stock()
	return l
}

// emptyLab is one whose node has no image yet, and no directory.
func emptyLab(t testing.TB) *lab {
	l := &lab{t: t, env: shimtest.New(t), client: fakeAPI(), net: &network{attached: map[string]string{}}}
	l.data = filepath.Join(l.env.Dir, "data")
	return l
}

// stock gives the node the image probe:1.
func (l *lab) stock() {
	l.t.Helper()
	store, err := image.Open(filepath.Join(l.data, "images"), nil)
	if err != nil {
		l.t.Fatal(err)
	}
	if _, err := store.Import(l.env.Context(), l.env.Rootfs("image"), "probe:1", v1.Config{Entrypoint: []string{"/probe"}, Env: []string{"FROM=image"}}); err != nil {
		l.t.Fatal(err)
	}
}

// begin starts an agent; stop ends it as a crash would leave things: nothing is torn down.
func (l *lab) begin() {
	l.t.Helper()
	a, err := agent.New(agent.Config{
		Client: l.client, NodeName: "n1", NodeID: "id1", DataDir: l.data, Shim: l.env.Client, Network: l.net, Registries: l.registries,
		Address: func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("192.0.2.7")} },
		Logger:  slog.New(slog.NewTextHandler(testLog{l.t}, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		l.t.Fatal(err)
	}
	others := goleak.IgnoreCurrent()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	l.agent = a
	l.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if !l.crowded {
				err = errors.Join(err, goleak.Find(others))
			}
			if err != nil {
				l.t.Error(err)
			}
		case <-time.After(shimtest.Patience):
			l.t.Error("waited for the agent to stop")
		}
	})
}

type testLog struct{ t testing.TB }

func (w testLog) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// pod creates a pod of one container that runs /probe with args.
func (l *lab) pod(name string, change func(*corev1.Pod), args ...string) *corev1.Pod {
	l.t.Helper()
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID("uid-" + name), Generation: 1},
		Spec: corev1.PodSpec{NodeName: "n1", RestartPolicy: corev1.RestartPolicyAlways,
			Containers: []corev1.Container{{Name: "c", Image: "probe:1", ImagePullPolicy: corev1.PullIfNotPresent, Args: args}}},
	}
	if change != nil {
		change(p)
	}
	p, err := l.client.CoreV1().Pods("default").Create(l.env.Context(), p, metav1.CreateOptions{})
	if err != nil {
		l.t.Fatal(err)
	}
	return p
}

// wait waits until the API's pod is as wanted.
func (l *lab) wait(name, what string, ok func(*corev1.Pod) bool) *corev1.Pod {
	l.t.Helper()
	var p *corev1.Pod
	shimtest.Eventually(l.t, fmt.Sprintf("pod %s: %s", name, what), func() bool {
		var err error
		p, err = l.client.CoreV1().Pods("default").Get(context.Background(), name, metav1.GetOptions{})
		return err == nil && ok(p)
	})
	return p
}

func ready(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// delete does what the API server does on a graceful delete, and waits for the agent's last word.
func (l *lab) delete(name string, grace int64) {
	l.t.Helper()
	p := l.wait(name, "to exist", func(*corev1.Pod) bool { return true })
	now := metav1.Now()
	p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &now, &grace
	if _, err := l.client.CoreV1().Pods("default").Update(context.Background(), p, metav1.UpdateOptions{}); err != nil {
		l.t.Fatal(err)
	}
	shimtest.Eventually(l.t, "pod "+name+" to be gone", func() bool {
		_, err := l.client.CoreV1().Pods("default").Get(context.Background(), name, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
}

// clean checks that nothing of any pod is left.
func (l *lab) clean() {
	l.t.Helper()
	shimtest.Eventually(l.t, "nothing to be left of the pods", func() bool {
		dirs, _ := os.ReadDir(filepath.Join(l.data, "pods"))
		uses, _ := os.ReadDir(filepath.Join(l.data, "images", "uses"))
		list, err := l.env.Client.List(context.Background())
		boxes, err2 := l.env.Client.ListSandboxes(context.Background())
		l.net.mu.Lock()
		defer l.net.mu.Unlock()
		return err == nil && err2 == nil && len(dirs)+len(uses)+len(list)+len(boxes)+len(l.net.attached) == 0 && len(shimtest.MountsBelow(filepath.Join(l.data))) == 0
	})
}

func (l *lab) logs(query string) string {
	l.t.Helper()
	rec := httptest.NewRecorder()
	l.agent.Handler().ServeHTTP(rec, httptest.NewRequest("GET", "/containerLogs/default/"+query, nil))
	b, _ := io.ReadAll(rec.Body)
	return string(b)
}

func TestPodLifeAcrossAgents(t *testing.T) {
	l := newLab(t)
	l.pod("web", func(p *corev1.Pod) {
		p.Spec.InitContainers = []corev1.Container{{Name: "init", Image: "probe:1", Args: []string{"say", "first"}}}
	}, "run")
	p := l.wait("web", "to be ready", ready)
	st := p.Status.ContainerStatuses[0]
	if p.Status.Phase != corev1.PodRunning || p.Status.PodIP != "127.0.0.1" || p.Status.HostIP != "192.0.2.7" || st.State.Running == nil || st.RestartCount != 0 || !strings.HasPrefix(st.ImageID, "sha256:") {
		t.Errorf("status: %+v", p.Status)
	}
	if init := p.Status.InitContainerStatuses[0]; init.State.Terminated == nil || init.State.Terminated.Reason != "Completed" || !init.Ready {
		t.Errorf("init: %+v", init)
	}
	if got := l.logs("web/init"); !strings.Contains(got, "out first\n") || !strings.Contains(got, "err first\n") {
		t.Errorf("log of init: %q", got)
	}
	before, err := l.env.Client.List(l.env.Context())
	if err != nil {
		t.Fatal(err)
	}

	l.stop()
	l.begin()
	shimtest.Eventually(t, "the second agent to know the pod", func() bool {
		rec := httptest.NewRecorder()
		l.agent.Handler().ServeHTTP(rec, httptest.NewRequest("GET", "/pods", nil))
		return strings.Contains(rec.Body.String(), `"uid-web"`)
	})
	l.pod("other", func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever }, "exit", "3")
	p = l.wait("other", "to fail", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	if s := p.Status.ContainerStatuses[0].State.Terminated; s == nil || s.ExitCode != 3 || s.Reason != "Error" {
		t.Errorf("terminated: %+v", p.Status.ContainerStatuses[0].State)
	}
	after, err := l.env.Client.List(l.env.Context())
	if err != nil {
		t.Fatal(err)
	}
	pids := func(list []shim.Container) (out []int) {
		for _, c := range list {
			if c.Status == shim.Running {
				out = append(out, c.PID)
			}
		}
		return out
	}
	if b, a := pids(before), pids(after); len(b) != 1 || !slices.Equal(a, b) {
		t.Errorf("processes before %v, after %v", b, a)
	}
	l.delete("web", 1)
	l.delete("other", 1)
	l.clean()
}

func TestWhatAContainerSees(t *testing.T) {
	l := newLab(t)
	ctx := l.env.Context()
	if _, err := l.client.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "conf", Namespace: "default"}, Data: map[string]string{"key": "value", "file": "contents"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	user, group := int64(1234), int64(5678)
	l.pod("seen", func(p *corev1.Pod) {
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		p.Labels = map[string]string{"app": "x"}
		p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &user, RunAsGroup: &group, FSGroup: &group}
		p.Spec.Volumes = []corev1.Volume{
			{Name: "conf", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "conf"}}}},
			{Name: "mem", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}},
		}
		mounts := []corev1.VolumeMount{{Name: "conf", MountPath: "/conf"}, {Name: "mem", MountPath: "/mem"}, {Name: "conf", MountPath: "/one", SubPath: "file"}}
		c := func(name string, args ...string) corev1.Container {
			return corev1.Container{Name: name, Image: "probe:1", ImagePullPolicy: corev1.PullNever, Args: args, VolumeMounts: mounts, Env: []corev1.EnvVar{
				{Name: "A", Value: "1"}, {Name: "B", Value: "$(A)-$(C)-$$(A)"},
				{Name: "IP", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}},
				{Name: "KEY", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "conf"}, Key: "key"}}},
			}}
		}
		p.Spec.Containers = []corev1.Container{c("who", "who"), c("conf", "file", "/conf/file"), c("one", "file", "/one"), c("volumes", "file", "/etc/hosts"), c("hostname", "file", "/etc/hostname"),
			c("write", "write", "/mem/x", "y"), c("message", "write", "/dev/termination-log", "last words")}
	})
	p := l.wait("seen", "to succeed", func(p *corev1.Pod) bool {
		return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
	})
	if p.Status.Phase != corev1.PodSucceeded {
		t.Errorf("phase %s: %+v", p.Status.Phase, p.Status.ContainerStatuses)
	}
	for _, s := range p.Status.ContainerStatuses {
		if s.Name == "message" && (s.State.Terminated == nil || s.State.Terminated.Message != "last words") {
			t.Errorf("termination message: %+v", s.State)
		}
	}
	for container, wants := range map[string][]string{
		"who": {"uid=1234", "gid=5678", "5678", "host=seen", `"FROM=image"`, `"B=1-$(C)-$(A)"`, `"IP=127.0.0.1"`, `"KEY=value"`}, "conf": {"contents"}, "one": {"contents"}, "volumes": {"127.0.0.1\tseen\n"}, "hostname": {"seen\n"},
	} {
		got := l.logs("seen/" + container)
		for _, w := range wants {
			if !strings.Contains(got, w) {
				t.Errorf("%s says %q, without %q", container, got, w)
			}
		}
	}
	l.delete("seen", 1)
	l.clean()
}

func TestRestartsAndTheirReasons(t *testing.T) {
	l := newLab(t)
	l.pod("crash", nil, "exit", "5")
	p := l.wait("crash", "to be in back-off", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Waiting != nil && p.Status.ContainerStatuses[0].State.Waiting.Reason == "CrashLoopBackOff"
	})
	s := p.Status.ContainerStatuses[0]
	if s.RestartCount != 1 || s.LastTerminationState.Terminated == nil || s.LastTerminationState.Terminated.ExitCode != 5 || s.State.Waiting.Message != "back-off 10s restarting failed container=c pod=crash_default(uid-crash)" || p.Status.Phase != corev1.PodRunning {
		t.Errorf("phase %s, status %+v", p.Status.Phase, s)
	}
	l.pod("eat", func(p *corev1.Pod) {
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("32Mi")}
	}, "eat")
	p = l.wait("eat", "to fail", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	if s := p.Status.ContainerStatuses[0].State.Terminated; s == nil || s.Reason != "OOMKilled" || s.ExitCode != 137 {
		t.Errorf("eat: %+v", p.Status.ContainerStatuses[0].State)
	}
	l.pod("never", func(p *corev1.Pod) {
		p.Spec.Containers[0].Image, p.Spec.Containers[0].ImagePullPolicy = "absent:1", corev1.PullNever
	})
	l.wait("never", "to want its image", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].State.Waiting != nil && p.Status.ContainerStatuses[0].State.Waiting.Reason == "ErrImageNeverPull" &&
			p.Status.ContainerStatuses[0].State.Waiting.Message == `Container image "absent:1" is not present with pull policy of Never`
	})
	l.pod("missing", func(p *corev1.Pod) { p.Spec.Containers[0].Command = []string{"/no/such"} })
	p = l.wait("missing", "to fail to start", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].LastTerminationState.Terminated != nil
	})
	if s := p.Status.ContainerStatuses[0].LastTerminationState.Terminated; s.Reason != "StartError" || s.ExitCode != 128 {
		t.Errorf("missing: %+v", s)
	}
	onFailure := func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyOnFailure }
	l.pod("well", onFailure, "exit", "0")
	l.pod("ill", onFailure, "exit", "4")
	if p := l.wait("well", "to succeed", succeeded); p.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("what has succeeded was begun anew: %+v", p.Status.ContainerStatuses[0])
	}
	p = l.wait("ill", "to be begun anew", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].RestartCount > 0
	})
	if s := p.Status.ContainerStatuses[0].LastTerminationState.Terminated; s == nil || s.ExitCode != 4 || p.Status.Phase != corev1.PodRunning {
		t.Errorf("what has failed: %s, %+v", p.Status.Phase, p.Status.ContainerStatuses[0])
	}
	l.pod("stubborn", nil, "stubborn")
	l.wait("stubborn", "to be ready", ready)
	for _, name := range []string{"crash", "eat", "never", "missing", "well", "ill", "stubborn"} {
		l.delete(name, 1)
	}
	l.clean()
}

func TestStatusThatOthersChangedIsSaidAgain(t *testing.T) {
	l := newLab(t)
	l.pod("seen", nil, "run")
	p := l.wait("seen", "to be ready", ready).DeepCopy()
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == corev1.PodReady {
			p.Status.Conditions[i].Status = corev1.ConditionFalse // as for a node that seemed dead
		}
	}
	if _, err := l.client.CoreV1().Pods("default").UpdateStatus(t.Context(), p, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	l.wait("seen", "to be ready again", ready)
	l.delete("seen", 1)
	l.clean()
}

func TestProbesDecide(t *testing.T) {
	l := newLab(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	port := intstr.FromInt32(int32(ln.Addr().(*net.TCPAddr).Port))
	probe := func(h corev1.ProbeHandler) *corev1.Probe {
		return &corev1.Probe{ProbeHandler: h, PeriodSeconds: 1, FailureThreshold: 1}
	}
	l.pod("probed", func(p *corev1.Pod) {
		p.Spec.Containers[0].StartupProbe = probe(corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"/probe", "exit", "0"}}})
		p.Spec.Containers[0].ReadinessProbe = probe(corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: port}})
	}, "run")
	l.wait("probed", "to be ready", ready)
	ln.Close()
	l.wait("probed", "to be unready when nobody listens", func(p *corev1.Pod) bool { return !ready(p) && p.Status.Phase == corev1.PodRunning })
	one := int64(1)
	l.pod("sick", func(p *corev1.Pod) {
		p.Spec.TerminationGracePeriodSeconds = &one
		p.Spec.Containers[0].LivenessProbe = probe(corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"/probe", "exit", "1"}}})
	}, "run")
	l.wait("sick", "to be restarted", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].RestartCount > 0
	})
	l.delete("probed", 1)
	l.delete("sick", 1)
	l.clean()
}

func TestNothingIsLostWhileNoAgentRuns(t *testing.T) {
	l := newLab(t)
	for _, name := range []string{"a", "b", "c"} {
		l.pod(name, func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever }, "term")
		l.wait(name, "to be ready", ready)
	}
	l.stop()
	// One ends, one is deleted for good, one goes on.
	if err := l.env.Client.Signal(l.env.Context(), "uid-a.c.0", unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	l.env.Wait("uid-a.c.0")
	if err := l.client.CoreV1().Pods("default").Delete(l.env.Context(), "b", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	// And something is there that nobody knows.
	l.env.Sandbox("stray")
	l.begin()
	p := l.wait("a", "to have failed", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	if s := p.Status.ContainerStatuses[0].State.Terminated; s == nil || s.ExitCode != 7 {
		t.Errorf("a: %+v", p.Status.ContainerStatuses[0].State)
	}
	if got := l.logs("a/c"); got != "ready\n" {
		t.Errorf("log of a: %q", got)
	}
	shimtest.Eventually(t, "the deleted pod and the stray sandbox to be gone", func() bool {
		boxes, err := l.env.Client.ListSandboxes(context.Background())
		return err == nil && len(boxes) == 1 && boxes[0].ID == "uid-c"
	})
	l.wait("c", "to go on", func(p *corev1.Pod) bool {
		return p.Status.Phase == corev1.PodRunning && p.Status.ContainerStatuses[0].RestartCount == 0
	})
	l.delete("a", 1)
	l.delete("c", 1)
	l.clean()
}
