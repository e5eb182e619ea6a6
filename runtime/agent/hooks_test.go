package agent_test

import (
	"bytes"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"

	"kontiki/runtime/image"
	"kontiki/runtime/shim/shimtest"
)

func httpHook(t *testing.T, server *httptest.Server, path string) *corev1.LifecycleHandler {
	t.Helper()
	port := server.Listener.Addr().(*net.TCPAddr).Port
	return &corev1.LifecycleHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt32(int32(port)), Path: path}}
}

func TestHooks(t *testing.T) {
	l := newLab(t)
	release, stopping := make(chan struct{}), make(chan struct{}, 10)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/start":
			<-release
		case "/stop":
			stopping <- struct{}{}
		}
	}))
	defer server.Close()
	l.pod("hooked", func(p *corev1.Pod) {
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PostStart: httpHook(t, server, "/start"), PreStop: httpHook(t, server, "/stop")}
	}, "term")
	p := l.wait("hooked", "to run", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning })
	if ready(p) {
		t.Error("the pod is ready before its postStart hook has ended")
	}
	close(release)
	l.wait("hooked", "to be ready", ready)
	l.delete("hooked", 30)
	select {
	case <-stopping:
	default:
		t.Error("the pod is gone and its preStop hook was not called")
	}

	l.pod("failing", func(p *corev1.Pod) {
		p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{
			PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"/probe", "exit", "1"}}},
			PreStop:   &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 0}},
		}
	}, "term")
	p = l.wait("failing", "to be ended for its hook", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].RestartCount > 0
	})
	if s := p.Status.ContainerStatuses[0].LastTerminationState.Terminated; s == nil || s.ExitCode != 7 {
		t.Errorf("it ended as %+v, want the code of one that was asked to stop", s)
	}
	l.delete("failing", 1)
	l.clean()
}

// TestTheEndOfAPod: a preStop hook runs before the signal and within the grace, what does not hear the signal is killed
// when the grace is over, and what the hook does not leave time for has two seconds.
func TestTheEndOfAPod(t *testing.T) {
	l := newLab(t)
	host := t.TempDir()
	cases := []struct {
		name, program string
		grace         int64
		hook          *corev1.LifecycleHandler
		least         int64 // seconds from the deletion to the end
		code          int32
		event         string
	}{
		{"writes", "term", 30, &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"/probe", "write", "/host/stopped", "x"}}}, 0, 7, ""},
		{"sleeps", "term", 30, &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 2}}, 2, 7, ""},
		{"deaf", "stubborn", 3, nil, 3, 137, ""},
		{"fails", "term", 30, &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"/probe", "exit", "1"}}}, 0, 7, "FailedPreStopHook"},
	}
	for _, c := range cases {
		l.pod(c.name, func(p *corev1.Pod) {
			with(hostPath(host))(p)
			p.Spec.TerminationGracePeriodSeconds = &c.grace
			p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: c.hook}
		}, c.program)
	}
	watched, err := l.client.CoreV1().Pods("default").Watch(l.env.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer watched.Stop()
	for _, c := range cases {
		l.wait(c.name, "to be ready", ready)
		shimtest.Eventually(t, c.name+" to hear signals", func() bool { return strings.Contains(l.logs(c.name+"/c"), "ready") })
	}
	var deleting sync.WaitGroup
	for _, c := range cases {
		deleting.Go(func() { l.delete(c.name, c.grace) })
	}
	last := map[string]*corev1.Pod{}
	for gone := 0; gone < len(cases); {
		e, ok := <-watched.ResultChan()
		if !ok {
			t.Fatal("waited for the pods to go")
		}
		p := e.Object.(*corev1.Pod)
		if e.Type == watch.Deleted {
			gone++
			continue
		}
		last[p.Name] = p
	}
	deleting.Wait()
	for _, c := range cases {
		p := last[c.name]
		end := p.Status.ContainerStatuses[0].State.Terminated
		if end == nil || p.DeletionTimestamp == nil || end.ExitCode != c.code || end.FinishedAt.Unix()-p.DeletionTimestamp.Unix() < c.least {
			t.Errorf("%s: deleted at %v, ended as %+v", c.name, p.DeletionTimestamp, end)
		}
		if c.event != "" {
			l.event(c.name, c.event, "")
		}
	}
	if b, err := os.ReadFile(filepath.Join(host, "stopped")); err != nil || string(b) != "x" {
		t.Errorf("what a hook has written: %q, %v", b, err)
	}
	l.clean()
}

func TestProbesByGRPCAndHTTP(t *testing.T) {
	l := newLab(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, checks := grpc.NewServer(), health.NewServer()
	grpc_health_v1.RegisterHealthServer(server, checks)
	go server.Serve(ln)
	defer server.Stop()
	var well atomic.Bool
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Asked-By") != "test" || !strings.HasPrefix(r.UserAgent(), "kube-probe/") || !well.Load() {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	defer web.Close()
	port := int32(ln.Addr().(*net.TCPAddr).Port)
	l.pod("grpc", func(p *corev1.Pod) {
		p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 1, ProbeHandler: corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: port}}}
	}, "run")
	l.pod("http", func(p *corev1.Pod) {
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{Name: "web", ContainerPort: int32(web.Listener.Addr().(*net.TCPAddr).Port)}}
		p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 1, ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{
			Port: intstr.FromString("web"), HTTPHeaders: []corev1.HTTPHeader{{Name: "X-Asked-By", Value: "test"}}}}}
	}, "run")
	l.wait("grpc", "to be ready", ready)
	if p := l.wait("http", "to run", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning }); ready(p) {
		t.Error("ready though its probe is answered 500")
	}
	well.Store(true)
	l.wait("http", "to be ready", ready)
	checks.SetServingStatus("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	l.wait("grpc", "to be unready", func(p *corev1.Pod) bool { return !ready(p) })
	l.delete("grpc", 1)
	l.delete("http", 1)
	l.clean()
}

func TestImageChangedInPlace(t *testing.T) {
	l := newLab(t)
	// The other one was saved by another node, and is loaded.
	elsewhere, err := image.Open(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := elsewhere.Import(l.env.Context(), l.env.Rootfs("image2"), "probe:2", v1.Config{Entrypoint: []string{"/probe"}, Env: []string{"FROM=second"}}); err != nil {
		t.Fatal(err)
	}
	var saved bytes.Buffer
	if err := elsewhere.Export(l.env.Context(), &saved, "probe:2"); err != nil {
		t.Fatal(err)
	}
	store, err := image.Open(l.data+"/images", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Load(l.env.Context(), &saved, ""); err != nil {
		t.Fatal(err)
	}
	l.pod("web", nil, "term")
	p := l.wait("web", "to be ready", ready)
	shimtest.Eventually(t, "the program to hear SIGTERM", func() bool { return strings.Contains(l.logs("web/c"), "ready") })
	p.Spec.Containers[0].Image = "probe:2"
	if _, err := l.client.CoreV1().Pods("default").Update(l.env.Context(), p, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	l.wait("web", "to run the other image", func(p *corev1.Pod) bool {
		s := p.Status.ContainerStatuses[0]
		return ready(p) && s.RestartCount == 1 && strings.HasSuffix(s.Image, "probe:2")
	})
	l.delete("web", 1)
	l.clean()
}

func TestHostPortIsHeldOnce(t *testing.T) {
	l := newLab(t)
	held := func(p *corev1.Pod) {
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 8080, Protocol: corev1.ProtocolTCP}}
	}
	l.pod("first", held, "run")
	l.wait("first", "to be ready", ready)
	l.pod("second", held, "run")
	p := l.wait("second", "to be refused", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	if p.Status.Reason != "NodePorts" || !strings.Contains(p.Status.Message, "host port 8080 is taken by pod default/first") {
		t.Errorf("%s: %s", p.Status.Reason, p.Status.Message)
	}
	shimtest.Eventually(t, "the refused pod to have left nothing", func() bool {
		boxes, err := l.env.Client.ListSandboxes(l.env.Context())
		return err == nil && len(boxes) == 1
	})
	l.delete("first", 1)
	l.delete("second", 1)
	l.clean()
}
