package acceptance

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"
)

// metricsAPI is a small server of custom and external metrics, outside of the cluster:
// an adapter as people run one, whose answers a test sets.
type metricsAPI struct {
	client   kubernetes.Interface
	queue    atomic.Int64 // of each pod that is asked for
	requests atomic.Int64 // of the Service that is asked for
	backlog  atomic.Int64 // of something that is no object of the cluster
}

const (
	customAPI   = "/apis/custom.metrics.k8s.io/v1beta2"
	externalAPI = "/apis/external.metrics.k8s.io/v1beta1"
)

// ServeHTTP implements http.Handler.
func (m *metricsAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var answer any
	var err error
	switch r.URL.Path {
	case customAPI:
		answer = resources("custom.metrics.k8s.io/v1beta2", "MetricValueList", "pods/queue", "services/requests")
	case externalAPI:
		answer = resources("external.metrics.k8s.io/v1beta1", "ExternalMetricValueList", "backlog")
	case customAPI + "/namespaces/default/pods/*/queue":
		answer, err = m.ofPods(r.Context(), r.URL.Query().Get("labelSelector"))
	case customAPI + "/namespaces/default/services/orders/requests":
		answer = values(value("Service", "orders", "requests", m.requests.Load()))
	case externalAPI + "/namespaces/default/backlog":
		answer = map[string]any{"kind": "ExternalMetricValueList", "apiVersion": "external.metrics.k8s.io/v1beta1", "metadata": map[string]any{}, "items": []any{
			map[string]any{"metricName": "backlog", "timestamp": time.Now().UTC().Format(time.RFC3339), "value": strconv.FormatInt(m.backlog.Load(), 10)},
		}}
	default:
		http.NotFound(w, r)
		return
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer) // the asker has gone
}

func resources(groupVersion, kind string, names ...string) *metav1.APIResourceList {
	list := &metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: groupVersion}
	for _, name := range names {
		list.APIResources = append(list.APIResources, metav1.APIResource{Name: name, Namespaced: true, Kind: kind, Verbs: metav1.Verbs{"get"}})
	}
	return list
}

func (m *metricsAPI) ofPods(ctx context.Context, selector string) (any, error) {
	pods, err := m.client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil, err
	}
	var items []any
	for _, pod := range pods.Items {
		items = append(items, value("Pod", pod.Name, "queue", m.queue.Load()))
	}
	return values(items...), nil
}

func values(items ...any) any {
	return map[string]any{"kind": "MetricValueList", "apiVersion": "custom.metrics.k8s.io/v1beta2", "metadata": map[string]any{}, "items": items}
}

func value(kind, name, metric string, n int64) any {
	return map[string]any{
		"describedObject": map[string]any{"kind": kind, "namespace": "default", "name": name, "apiVersion": "v1"},
		"metric":          map[string]any{"name": metric}, "timestamp": time.Now().UTC().Format(time.RFC3339), "value": strconv.FormatInt(n, 10),
	}
}

// serveMetrics starts the server on the machine's own address in the lab, and leads the
// cluster's APIServices to it.
func (c *cluster) serveMetrics(t *testing.T, client kubernetes.Interface) *metricsAPI {
	t.Helper()
	m := &metricsAPI{client: client}
	listener, err := net.Listen("tcp4", net.JoinHostPort(c.gateway(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(m)
	server.Listener.Close()
	server.Listener = listener
	server.StartTLS()
	t.Cleanup(server.Close)
	at := listener.Addr().(*net.TCPAddr)
	if _, err := client.DiscoveryV1().EndpointSlices("default").Create(t.Context(), &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: "metrics", Labels: map[string]string{discoveryv1.LabelServiceName: "metrics"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{c.gateway()}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)}}},
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To("https"), Protocol: ptr.To(corev1.ProtocolTCP), Port: ptr.To(int32(at.Port))}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.kubectl(t, c.Hosts()[0], "apply", "-f", filepath.Join("testdata", "hpametrics.yaml"))
	return m
}

// autoscaledByMetrics has three autoscalers follow a metric of each pod, one of a
// Service, and one from outside, up and down.
func (c *cluster) autoscaledByMetrics(t *testing.T) {
	t.Helper()
	client := c.client(t, c.Hosts()[0])
	m := c.serveMetrics(t, client)
	sizes := func(what string, want int32) {
		t.Helper()
		for _, name := range []string{"queue", "orders", "backlog"} {
			c.eventually(t, fmt.Sprintf("%s to %s", name, what), func(ctx context.Context) error {
				d, err := client.AppsV1().Deployments("default").Get(ctx, name, metav1.GetOptions{})
				if err != nil {
					return err
				}
				hpa, err := client.AutoscalingV2().HorizontalPodAutoscalers("default").Get(ctx, name, metav1.GetOptions{})
				if err == nil && (*d.Spec.Replicas != want || d.Status.AvailableReplicas != want) {
					err = fmt.Errorf("%d replicas are wanted, %d available; the autoscaler says %+v", *d.Spec.Replicas, d.Status.AvailableReplicas, hpa.Status)
				}
				return err
			})
		}
	}
	m.queue.Store(30)    // of each pod, and 10 are wanted: three times as many pods
	m.requests.Store(90) // 30 are wanted
	m.backlog.Store(25)  // 10 for each pod are wanted: 2.5, rounded up
	sizes("go up to three", 3)
	if out := c.kubectl(t, c.Hosts()[0], "get", "hpa", "queue", "orders", "backlog"); !strings.Contains(out, "30/10") || !strings.Contains(out, "90/30") || !strings.Contains(out, "/10 (avg)") {
		t.Errorf("kubectl shows\n%s", out)
	}
	m.queue.Store(1)
	m.requests.Store(1)
	m.backlog.Store(1)
	sizes("go down to one", 1)
}
