package metrics

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

// Agents leads to the agents of nodes.
type Agents interface {
	// Agent returns where the agent of a node is and what carries requests there.
	Agent(ctx context.Context, nodeName string) (base *url.URL, transport http.RoundTripper, err error)
}

const (
	// fresh is how long an answer of an agent serves others who ask the same; many
	// autoscalers cost a node one question then.
	fresh = 5 * time.Second
	// patience is how long a node is waited for; the others' numbers are told without it.
	patience = 5 * time.Second
	// atOnce bounds how many nodes are asked at the same time for one request.
	atOnce = 16
	// maxSummary bounds an agent's answer: a node of some hundred pods sends some hundred KiB.
	maxSummary = 32 << 20
	// window is the time over which agents work out how much CPU is used.
	window = 10 * time.Second
)

// reading is what a node has said, and when.
type reading struct {
	summary *statsapi.Summary
	at      time.Time
}

// meter asks nodes and keeps each answer for a moment.
type meter struct {
	agents Agents

	mu   sync.Mutex // protects seen
	seen map[string]reading
}

// read returns what the named nodes use. A node that does not answer is missing.
func (m *meter) read(ctx context.Context, nodes []string) map[string]*statsapi.Summary {
	out := map[string]*statsapi.Summary{}
	if m.agents == nil {
		return out
	}
	var wg sync.WaitGroup
	var mu sync.Mutex // protects out
	slots := make(chan struct{}, atOnce)
	asked := map[string]bool{"": true} // pods on no node use nothing
	for _, name := range nodes {
		if asked[name] {
			continue
		}
		asked[name] = true
		if s := m.known(name); s != nil {
			mu.Lock()
			out[name] = s
			mu.Unlock()
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			s, err := m.ask(ctx, name)
			if err != nil {
				return // a node out of reach uses nothing that could be told
			}
			mu.Lock()
			defer mu.Unlock()
			out[name] = s
		})
	}
	wg.Wait()
	return out
}

// known is an answer that is still fresh.
func (m *meter) known(node string) *statsapi.Summary {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, r := range m.seen { // what nobody asks for any more is forgotten here
		if time.Since(r.at) > fresh {
			delete(m.seen, name)
		}
	}
	return m.seen[node].summary
}

func (m *meter) ask(ctx context.Context, node string) (*statsapi.Summary, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	base, transport, err := m.agents.Agent(ctx, node)
	if err != nil {
		return nil, err
	}
	to := *base
	to.Path, to.RawQuery = "/stats/summary", "only_cpu_and_memory=true"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, to.String(), nil)
	if err != nil {
		return nil, err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the agent of node %q answers %s", node, resp.Status)
	}
	s := &statsapi.Summary{}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxSummary)).Decode(s); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen[node] = reading{s, time.Now()}
	return s, nil
}

// usageOf is what is used, and when that was measured. Both numbers must be there.
func usageOf(cpu *statsapi.CPUStats, memory *statsapi.MemoryStats) (corev1.ResourceList, metav1.Time, bool) {
	if cpu == nil || cpu.UsageNanoCores == nil || memory == nil || memory.WorkingSetBytes == nil {
		return nil, metav1.Time{}, false
	}
	cores := resource.NewScaledQuantity(int64(*cpu.UsageNanoCores), resource.Nano)
	bytes := resource.NewQuantity(int64(*memory.WorkingSetBytes), resource.BinarySI)
	return corev1.ResourceList{corev1.ResourceCPU: *cores, corev1.ResourceMemory: *bytes}, cpu.Time, true
}

func nodeUsage(node *corev1.Node, s *statsapi.Summary) (metricsv1beta1.NodeMetrics, bool) {
	if s == nil {
		return metricsv1beta1.NodeMetrics{}, false
	}
	usage, at, ok := usageOf(s.Node.CPU, s.Node.Memory)
	return metricsv1beta1.NodeMetrics{
		ObjectMeta: metav1.ObjectMeta{Name: node.Name, Labels: node.Labels, CreationTimestamp: metav1.Now()},
		Timestamp:  at, Window: metav1.Duration{Duration: window}, Usage: usage,
	}, ok
}

// podUsage is what a pod's containers use. Like metrics-server, it is not told until
// it is known of all that run.
func podUsage(pod *corev1.Pod, s *statsapi.Summary) (metricsv1beta1.PodMetrics, bool) {
	if s == nil || pod.Status.Phase != corev1.PodRunning {
		return metricsv1beta1.PodMetrics{}, false
	}
	out := metricsv1beta1.PodMetrics{
		ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace, Labels: pod.Labels, CreationTimestamp: metav1.Now()},
		Window:     metav1.Duration{Duration: window},
	}
	for i := range s.Pods {
		p := &s.Pods[i]
		if p.PodRef.Namespace != pod.Namespace || p.PodRef.Name != pod.Name || p.PodRef.UID != string(pod.UID) {
			continue
		}
		for j := range p.Containers {
			c := &p.Containers[j]
			usage, at, ok := usageOf(c.CPU, c.Memory)
			if !ok {
				return out, false
			}
			if out.Timestamp.IsZero() || at.Before(&out.Timestamp) {
				out.Timestamp = at
			}
			out.Containers = append(out.Containers, metricsv1beta1.ContainerMetrics{Name: c.Name, Usage: usage})
		}
	}
	return out, len(out.Containers) > 0
}

func add(sum, list corev1.ResourceList) {
	for name, q := range list {
		total := sum[name]
		total.Add(q)
		sum[name] = total
	}
}
