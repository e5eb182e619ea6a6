package agent_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"kontiki/apiserver"
	"kontiki/raftstore/raftstoretest"
	"kontiki/runtime/shim/shimtest"
)

// agents leads every node's requests to the one agent there is.
type agents struct{ server *httptest.Server }

func (a agents) Agent(context.Context, string) (*url.URL, http.RoundTripper, error) {
	to, err := url.Parse(a.server.URL)
	return to, a.server.Client().Transport, err
}

// describes: the Node tells of its machine.
func (l *lab) describes() {
	l.t.Helper()
	n, err := l.client.CoreV1().Nodes().Get(l.env.Context(), "n1", metav1.GetOptions{})
	if err != nil {
		l.t.Fatal(err)
	}
	var kernel unix.Utsname
	if err := unix.Uname(&kernel); err != nil {
		l.t.Fatal(err)
	}
	st := n.Status
	if st.Capacity.Cpu().Value() != int64(runtime.NumCPU()) || st.Capacity.Memory().Value() < 1<<28 || st.Capacity.Pods().Value() == 0 || st.Capacity.StorageEphemeral().Value() == 0 ||
		st.Allocatable.Memory().Cmp(*st.Capacity.Memory()) >= 0 || st.Allocatable.Cpu().Value() != st.Capacity.Cpu().Value() || st.Allocatable.Pods().Value() != st.Capacity.Pods().Value() {
		l.t.Errorf("capacity %v, allocatable %v", st.Capacity, st.Allocatable)
	}
	if want := []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.7"}, {Type: corev1.NodeHostName, Address: "n1"}}; !slices.Equal(st.Addresses, want) {
		l.t.Errorf("addresses: %v", st.Addresses)
	}
	if i := st.NodeInfo; i.KernelVersion != unix.ByteSliceToString(kernel.Release[:]) || i.OperatingSystem != "linux" || i.Architecture != runtime.GOARCH || i.BootID == "" || i.OSImage == "" || i.ContainerRuntimeVersion == "" {
		l.t.Errorf("%+v", i)
	}
	var conditions []corev1.NodeConditionType
	for _, c := range st.Conditions {
		conditions = append(conditions, c.Type)
	}
	if want := []corev1.NodeConditionType{corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure, corev1.NodeReady}; !slices.Equal(conditions, want) {
		l.t.Errorf("conditions: %v", conditions)
	}
	if len(st.Images) != 1 || !slices.Contains(st.Images[0].Names, "docker.io/library/probe:1") || st.Images[0].SizeBytes == 0 {
		l.t.Errorf("images: %+v", st.Images)
	}
	if n.Labels[corev1.LabelHostname] != "n1" || n.Labels[corev1.LabelArchStable] != runtime.GOARCH || n.Spec.ProviderID != "kontiki://id1" {
		l.t.Errorf("labels %v, provider %s", n.Labels, n.Spec.ProviderID)
	}
}

// TestAgainstTheRealAPI is one pod's life as a user of the API sees it.
func TestAgainstTheRealAPI(t *testing.T) {
	l := prepareLab(t)
	l.crowded = true
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { l.agent.Handler().ServeHTTP(w, r) }))
	t.Cleanup(endpoint.Close)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := apiserver.New(apiserver.Config{
		ServiceAccountKey: key,
		Store:             raftstoretest.New(t), Settings: apiserver.Settings{ServiceCIDR: netip.MustParsePrefix("10.43.0.0/16")}, Agents: agents{endpoint}, Version: "test", Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	as := func(name string, groups ...string) kubernetes.Interface {
		c, err := kubernetes.NewForConfig(s.Client(&user.DefaultInfo{Name: name, Groups: groups}))
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	admin := as("admin", user.SystemPrivilegedGroup)
	shimtest.Eventually(t, "the namespace", func() bool {
		_, err := admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
		return err == nil || apierrors.IsAlreadyExists(err)
	})
	// What every namespace has. The pod mounts its account's token, which the node
	// asks for as itself.
	if _, err := admin.CoreV1().ServiceAccounts("default").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "kube-root-ca.crt"}, Data: map[string]string{"ca.crt": "x"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	l.client = as("system:node:n1", "system:nodes", user.AllAuthenticated)
	l.begin()
	t.Cleanup(func() { l.stop() })
	l.client = admin

	shimtest.Eventually(t, "the Node to be ready", func() bool {
		n, err := admin.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
		if err != nil {
			return false
		}
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady {
				return c.Status == corev1.ConditionTrue
			}
		}
		return false
	})
	l.describes()
	l.pod("web", nil, "run")
	p := l.wait("web", "to be ready", ready)
	if len(p.Spec.Volumes) != 1 || len(p.Spec.Containers[0].VolumeMounts) != 1 {
		t.Errorf("the pod has no token: %+v", p.Spec)
	}
	if p.Status.PodIP != "127.0.0.1" || p.Status.Phase != corev1.PodRunning || p.Status.QOSClass != corev1.PodQOSBestEffort {
		t.Errorf("status: %+v", p.Status)
	}
	// A container runs before its program has written: follow, and read one line.
	stream, err := admin.CoreV1().Pods("default").GetLogs("web", &corev1.PodLogOptions{Follow: true}).Stream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	if line, err := bufio.NewReader(stream).ReadString('\n'); err != nil || line != "running\n" {
		t.Errorf("log: %q %v", line, err)
	}
	// The agent itself trusts who comes: the API asks who may.
	stranger := as("stranger", user.AllAuthenticated).CoreV1()
	exec := func(c rest.Interface) error {
		return c.Post().Resource("pods").Namespace("default").Name("web").SubResource("exec").Param("command", "/probe").Param("stdout", "true").Do(t.Context()).Error()
	}
	for what, err := range map[string]error{
		"logs": second(stranger.Pods("default").GetLogs("web", &corev1.PodLogOptions{}).DoRaw(t.Context())), "exec": exec(stranger.RESTClient()),
		"the agent's endpoint": stranger.RESTClient().Get().Resource("nodes").Name("n1").SubResource("proxy").Suffix("metrics").Do(t.Context()).Error(),
	} {
		if !apierrors.IsForbidden(err) {
			t.Errorf("%s for one whom nobody has allowed anything: %v", what, err)
		}
	}
	if err := exec(admin.CoreV1().RESTClient()); err == nil || apierrors.IsForbidden(err) { // which wants another protocol
		t.Errorf("exec for one who may: %v", err)
	}
	shimtest.Eventually(t, "the events of a start", func() bool {
		list, err := admin.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return false
		}
		seen := map[string]bool{}
		for _, e := range list.Items {
			seen[e.Reason] = true
		}
		return seen["Pulled"] && seen["Created"] && seen["Started"]
	})
	grace := int64(1)
	if err := admin.CoreV1().Pods("default").Delete(t.Context(), "web", metav1.DeleteOptions{GracePeriodSeconds: &grace}); err != nil {
		t.Fatal(err)
	}
	shimtest.Eventually(t, "the pod to be gone from the API", func() bool {
		_, err := admin.CoreV1().Pods("default").Get(t.Context(), "web", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	l.clean()
	l.stop()
}
