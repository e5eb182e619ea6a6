package agent_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

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
	store, err := image.Open(l.data+"/images", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Import(l.env.Context(), l.env.Rootfs("image2"), "probe:2", v1.Config{Entrypoint: []string{"/probe"}, Env: []string{"FROM=second"}}); err != nil {
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
