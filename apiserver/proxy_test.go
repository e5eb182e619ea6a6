package apiserver

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"kontiki/raftstore/raftstoretest"
)

// measuringAgent is a node's agent that knows how much its node and one pod use.
const measuringAgent = `{
"node": {"nodeName": "a", "startTime": "2026-01-01T00:00:00Z",
  "cpu": {"time": "2026-01-01T00:10:00Z", "usageNanoCores": 250000000},
  "memory": {"time": "2026-01-01T00:10:00Z", "workingSetBytes": 104857600}},
"pods": [{"podRef": {"name": "p", "namespace": "default", "uid": "%s"}, "startTime": "2026-01-01T00:00:00Z",
  "containers": [{"name": "c", "startTime": "2026-01-01T00:00:00Z",
    "cpu": {"time": "2026-01-01T00:10:00Z", "usageNanoCores": 5000000},
    "memory": {"time": "2026-01-01T00:10:00Z", "workingSetBytes": 2097152}}]}]}`

// TestProxyAndMetrics asks a node's agent through the API, by its own path and as
// metrics of the node and of its pods.
func TestProxyAndMetrics(t *testing.T) {
	var uid atomic.Value
	uid.Store("")
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/stats/summary" {
			fmt.Fprintf(w, measuringAgent, uid.Load())
			return
		}
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s", r.Method, r.URL.RequestURI(), body)
	}))
	defer agent.Close()
	base, err := url.Parse(agent.URL)
	if err != nil {
		t.Fatal(err)
	}
	s := startServer(t, raftstoretest.New(t), func(c *Config) { c.Agents = agents{base} })
	c := clientOf(t, s, admin)
	defaultNamespace(t, c)
	ctx := t.Context()
	for _, name := range []string{"a", "b"} {
		if _, err := c.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"zone": name}}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	rest := c.CoreV1().RESTClient()
	got, err := rest.Post().AbsPath("/api/v1/nodes/a/proxy/some/path/").Param("q", "1").Body([]byte("text")).DoRaw(ctx)
	if want := "POST /some/path/?q=1 text"; err != nil || string(got) != want {
		t.Errorf("proxy to a node: %q %v, want %q", got, err, want)
	}
	if _, err := rest.Get().Resource("nodes").Name("b").SubResource("proxy").Suffix("x").DoRaw(ctx); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("proxy to a node without agent: %v", err)
	}
	if _, err := rest.Get().Resource("nodes").Name("three").SubResource("proxy").DoRaw(ctx); !apierrors.IsNotFound(err) {
		t.Errorf("proxy to no node: %v", err)
	}

	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{NodeName: "a", Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	if pod, err = c.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	uid.Store(string(pod.UID))
	if _, err := rest.Get().Namespace("default").Resource("pods").Name("p").SubResource("proxy").DoRaw(ctx); !apierrors.IsBadRequest(err) {
		t.Errorf("proxy to a pod without address: %v", err)
	}
	pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "127.0.0.1", PodIPs: []corev1.PodIP{{IP: "127.0.0.1"}}}
	if _, err := c.CoreV1().Pods("default").UpdateStatus(ctx, pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := rest.Get().Namespace("default").Resource("pods").Name("p").SubResource("proxy").DoRaw(ctx); !apierrors.IsBadRequest(err) {
		t.Errorf("proxy to the machine itself: %v", err)
	}

	measured := func(path string, into any) {
		t.Helper()
		data, err := rest.Get().AbsPath("/apis/metrics.k8s.io/v1beta1"+path).SetHeader("Accept", "application/json").DoRaw(ctx)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if err := json.Unmarshal(data, into); err != nil {
			t.Fatal(err)
		}
	}
	var nodes metricsv1beta1.NodeMetricsList
	measured("/nodes", &nodes)
	if len(nodes.Items) != 1 || nodes.Items[0].Name != "a" || nodes.Items[0].Labels["zone"] != "a" {
		t.Fatalf("metrics of nodes: %+v, want those of a alone", nodes.Items)
	}
	if cpu, memory := nodes.Items[0].Usage.Cpu().MilliValue(), nodes.Items[0].Usage.Memory().Value(); cpu != 250 || memory != 100<<20 {
		t.Errorf("node a: %dm, %d bytes", cpu, memory)
	}
	var pods metricsv1beta1.PodMetricsList
	measured("/namespaces/default/pods", &pods)
	if len(pods.Items) != 1 || len(pods.Items[0].Containers) != 1 {
		t.Fatalf("metrics of pods: %+v", pods.Items)
	}
	if u := pods.Items[0].Containers[0].Usage; u.Cpu().MilliValue() != 5 || u.Memory().Value() != 2<<20 {
		t.Errorf("container c: %v", u)
	}
}

// TestServicesLeadToPodsOnly lets somebody write slices by hand: what they name is
// asked only where a pod of the namespace has that address.
func TestServicesLeadToPodsOnly(t *testing.T) {
	c := clientOf(t, startServer(t, raftstoretest.New(t)), admin)
	defaultNamespace(t, c)
	pod := mustCreatePod(t, c, simplePod("p"))
	pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "192.0.2.1", PodIPs: []corev1.PodIP{{IP: "192.0.2.1"}}}
	if _, err := c.CoreV1().Pods("default").UpdateStatus(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	port, name := int32(80), "http"
	for i, e := range []discoveryv1.Endpoint{
		{Addresses: []string{"192.0.2.2"}, TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "p"}},
		{Addresses: []string{"192.0.2.1"}, TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "other"}},
		{Addresses: []string{"192.0.2.1"}, TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: "kube-system", Name: "p"}},
		{Addresses: []string{"192.0.2.1"}},
	} {
		service := fmt.Sprintf("s%d", i)
		if _, err := c.DiscoveryV1().EndpointSlices("default").Create(t.Context(), &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Name: service, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
			AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &name, Port: &port}}, Endpoints: []discoveryv1.Endpoint{e},
		}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		err := c.CoreV1().RESTClient().Get().Namespace("default").Resource("services").Name(service + ":http").SubResource("proxy").Do(t.Context()).Error()
		if want := fmt.Sprintf("no endpoints available for service %q", service); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v at %v: %v, want %s", e.TargetRef, e.Addresses, err, want)
		}
	}
}
