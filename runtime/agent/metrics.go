package agent

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	corev1 "k8s.io/api/core/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	families "kontiki/internal/meter"
)

// Families are what the agent tells of itself at /metrics of its endpoint, and Resources
// what it tells at /metrics/resource, by upstream's names.
var Families, Resources families.Set

var (
	podStartMetric   = Families.Histogram("kubelet_pod_start_duration_seconds", "Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run", podStartBuckets)
	podWorkMetric    = Families.Histogram("kubelet_pod_worker_duration_seconds", "Duration in seconds to sync a single pod. Broken down by operation type: create, update, or sync", prometheus.DefBuckets, "operation_type")
	podsStarted      = Families.Count("kubelet_started_pods_total", "Cumulative number of pods started")
	podsFailed       = Families.Count("kubelet_started_pods_errors_total", "Cumulative number of errors when starting pods")
	containersBegun  = Families.Count("kubelet_started_containers_total", "Cumulative number of containers started", "container_type")
	containersFailed = Families.Count("kubelet_started_containers_errors_total", "Cumulative number of errors when starting containers", "container_type", "code")
	nodeNameMetric   = Families.Gauge("kubelet_node_name", "The node's name. The count is always 1.", "node")
	runningPods      = Families.Gauge("kubelet_running_pods", "Number of pods that have a running pod sandbox")
	runningParts     = Families.Gauge("kubelet_running_containers", "Number of containers currently running", "container_state")
	operationTime    = Families.Histogram("kubelet_runtime_operations_duration_seconds", "Duration in seconds of runtime operations. Broken down by operation type: of stop_container, the first signal alone.", prometheus.ExponentialBuckets(.005, 2.5, 14), "operation_type")
	operations       = Families.Count("kubelet_runtime_operations_total", "Cumulative number of runtime operations by operation type.", "operation_type")
	operationsFailed = Families.Count("kubelet_runtime_operations_errors_total", "Cumulative number of runtime operation errors by operation type.", "operation_type")
	pullTime         = Families.Histogram("kubelet_image_pull_duration_seconds", "Duration in seconds to pull an image.", pullBuckets, "image_size_in_bytes")
	pullsFailed      = Families.Count("kontiki_image_pull_failures_total", "Pulls of images that failed.")
	exitsMetric      = Families.Count("kontiki_runtime_exits_total", "Ends of containers that the agent heard of.")
)

// podStartBuckets are upstream's, with some below: most pods start in less than its first.
var podStartBuckets = []float64{0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 4, 5, 6, 8, 10, 20, 30, 45, 60, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600}

// pullBuckets and pullSizes are upstream's.
var pullBuckets = []float64{1, 5, 10, 20, 30, 60, 180, 300, 600, 900, 1200, 1800, 2700, 3600}

var pullSizes = []struct {
	from int64 // MiB
	name string
}{
	{102400, "GT100GB"}, {61440, "60GB-100GB"}, {40960, "40GB-60GB"}, {30720, "30GB-40GB"}, {20480, "20GB-30GB"}, {10240, "10GB-20GB"},
	{5120, "5GB-10GB"}, {1024, "1GB-5GB"}, {500, "500MB-1GB"}, {100, "100MB-500MB"}, {10, "10MB-100MB"}, {0, "0-10MB"},
}

func pullSize(bytes int64) string {
	if bytes == 0 {
		return "N/A"
	}
	for _, s := range pullSizes {
		if bytes > s.from<<20 {
			return s.name
		}
	}
	return pullSizes[len(pullSizes)-1].name
}

// metrics belong to one Agent: a process may hold several. It is a prometheus.Collector.
type metrics struct {
	a         *Agent
	own       *prometheus.Registry // /metrics
	resources *prometheus.Registry // /metrics/resource

	podStart                          prometheus.Histogram
	podsStarted, podsFailed           prometheus.Counter
	pullsFailed, exits                prometheus.Counter
	containersStarted, containersDead *prometheus.CounterVec
	operations, operationsFailed      *prometheus.CounterVec
	operationTime, pull, podWork      *prometheus.HistogramVec
}

func newMetrics(a *Agent) *metrics {
	m := &metrics{
		a: a, own: prometheus.NewRegistry(), resources: prometheus.NewRegistry(),
		podStart: podStartMetric.New(), podsStarted: podsStarted.New(), podsFailed: podsFailed.New(),
		pullsFailed: pullsFailed.New(), exits: exitsMetric.New(),
		containersStarted: containersBegun.NewVec(), containersDead: containersFailed.NewVec(),
		operations: operations.NewVec(), operationsFailed: operationsFailed.NewVec(),
		operationTime: operationTime.NewVec(), pull: pullTime.NewVec(), podWork: podWorkMetric.NewVec(),
	}
	m.own.MustRegister(m, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.resources.MustRegister(resourceCollector{a})
	return m
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) { Families.Describe(ch) }

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	nodeNameMetric.Send(ch, 1, m.a.cfg.NodeName)
	m.a.collectRunning(ch)
	for _, c := range []prometheus.Collector{m.podStart, m.podsStarted, m.podsFailed, m.pullsFailed, m.exits, m.containersStarted, m.containersDead,
		m.operations, m.operationsFailed, m.operationTime, m.pull, m.podWork} {
		c.Collect(ch)
	}
}

func serveMetrics(r *prometheus.Registry) http.Handler {
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
}

// PodWorked implements pod.Counter.
func (m *metrics) PodWorked(operation string, took time.Duration) {
	m.podWork.WithLabelValues(operation).Observe(took.Seconds())
}

// PodStarted implements pod.Counter.
func (m *metrics) PodStarted(err error) {
	m.podsStarted.Inc()
	if err != nil {
		m.podsFailed.Inc()
	}
}

// ContainerStarted implements pod.Counter.
func (m *metrics) ContainerStarted(kind, failure string) {
	m.containersStarted.WithLabelValues(kind).Inc()
	if failure != "" {
		m.containersDead.WithLabelValues(kind, failure).Inc()
	}
}

// ImagePulled implements pod.Counter.
func (m *metrics) ImagePulled(bytes int64, took time.Duration, err error) {
	if err != nil {
		m.pullsFailed.Inc()
		return
	}
	m.pull.WithLabelValues(pullSize(bytes)).Observe(took.Seconds())
}

// collectRunning counts pods and containers.
func (a *Agent) collectRunning(ch chan<- prometheus.Metric) {
	pods, states := 0, map[string]int{}
	for _, p := range a.snapshots() {
		for _, cond := range p.Status.Conditions {
			if cond.Type == corev1.PodReadyToStartContainers && cond.Status == corev1.ConditionTrue {
				pods++
			}
		}
		for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses, p.Status.EphemeralContainerStatuses} {
			for i := range list {
				switch {
				case list[i].State.Running != nil:
					states["running"]++
				case list[i].State.Terminated != nil:
					states["exited"]++
				}
			}
		}
	}
	runningPods.Send(ch, float64(pods))
	for state, n := range states {
		runningParts.Send(ch, float64(n), state)
	}
}

// resourceFamily declares a family of /metrics/resource. Its values carry the time at which they
// were true, so that they are sent by hand.
func resourceFamily(name, help string, labels ...string) *prometheus.Desc {
	if strings.HasSuffix(name, "_total") {
		Resources.Counter(name, help, labels...)
	} else {
		Resources.Gauge(name, help, labels...)
	}
	return prometheus.NewDesc(name, help, labels, nil)
}

// resourceCollector is /metrics/resource: what is used, of what runs now.
type resourceCollector struct{ a *Agent }

var (
	ofContainer = []string{"container", "pod", "namespace"}
	ofPod       = []string{"pod", "namespace"}

	nodeCPUDesc            = resourceFamily("node_cpu_usage_seconds_total", "Cumulative cpu time consumed by the node in core-seconds")
	nodeMemoryDesc         = resourceFamily("node_memory_working_set_bytes", "Current working set of the node in bytes")
	nodeSwapDesc           = resourceFamily("node_swap_usage_bytes", "Current swap usage of the node in bytes. Reported only on non-windows systems")
	containerStartDesc     = resourceFamily("container_start_time_seconds", "Start time of the container since unix epoch in seconds", ofContainer...)
	containerCPUDesc       = resourceFamily("container_cpu_usage_seconds_total", "Cumulative cpu time consumed by the container in core-seconds", ofContainer...)
	containerMemoryDesc    = resourceFamily("container_memory_working_set_bytes", "Current working set of the container in bytes", ofContainer...)
	containerSwapDesc      = resourceFamily("container_swap_usage_bytes", "Current amount of the container swap usage in bytes. Reported only on non-windows systems", ofContainer...)
	containerSwapLimitDesc = resourceFamily("container_swap_limit_bytes", "Current amount of the container swap limit in bytes. Reported only on non-windows systems", ofContainer...)
	podCPUDesc             = resourceFamily("pod_cpu_usage_seconds_total", "Cumulative cpu time consumed by the pod in core-seconds", ofPod...)
	podMemoryDesc          = resourceFamily("pod_memory_working_set_bytes", "Current working set of the pod in bytes", ofPod...)
	podSwapDesc            = resourceFamily("pod_swap_usage_bytes", "Current amount of the pod swap usage in bytes. Reported only on non-windows systems", ofPod...)
	scrapeErrorDesc        = resourceFamily("resource_scrape_error", "1 if there was an error while getting container metrics, 0 otherwise")
)

// Describe implements prometheus.Collector.
func (resourceCollector) Describe(ch chan<- *prometheus.Desc) { Resources.Describe(ch) }

// Collect implements prometheus.Collector.
func (c resourceCollector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapePatience)
	defer cancel()
	failed := 0.0
	s, err := c.a.summary(ctx, false, false)
	if err != nil {
		c.a.log.Warn("cannot measure what pods use", "error", err)
		failed = 1
	} else {
		e := emitter(ch)
		e.group(s.Node.CPU, s.Node.Memory, s.Node.Swap, nodeCPUDesc, nodeMemoryDesc, nodeSwapDesc)
		for i := range s.Pods {
			e.pod(&s.Pods[i])
		}
	}
	ch <- prometheus.MustNewConstMetric(scrapeErrorDesc, prometheus.GaugeValue, failed)
}

// scrapePatience bounds a scrape whose asker the library does not tell us of.
const scrapePatience = 10 * time.Second

// emitter sends figures with the time at which they were true.
type emitter chan<- prometheus.Metric

func (e emitter) send(d *prometheus.Desc, kind prometheus.ValueType, at time.Time, value float64, labels ...string) {
	e <- prometheus.NewMetricWithTimestamp(at, prometheus.MustNewConstMetric(d, kind, value, labels...))
}

func (e emitter) group(cpu *statsapi.CPUStats, memory *statsapi.MemoryStats, swap *statsapi.SwapStats, cpuDesc, memoryDesc, swapDesc *prometheus.Desc, labels ...string) {
	if cpu != nil {
		e.send(cpuDesc, prometheus.CounterValue, cpu.Time.Time, float64(*cpu.UsageCoreNanoSeconds)/float64(time.Second), labels...)
	}
	if memory != nil {
		e.send(memoryDesc, prometheus.GaugeValue, memory.Time.Time, float64(*memory.WorkingSetBytes), labels...)
	}
	if swap != nil {
		e.send(swapDesc, prometheus.GaugeValue, swap.Time.Time, float64(*swap.SwapUsageBytes), labels...)
	}
}

func (e emitter) pod(p *statsapi.PodStats) {
	for i := range p.Containers {
		c := &p.Containers[i]
		labels := []string{c.Name, p.PodRef.Name, p.PodRef.Namespace}
		e <- prometheus.MustNewConstMetric(containerStartDesc, prometheus.GaugeValue, float64(c.StartTime.UnixNano())/float64(time.Second), labels...)
		e.group(c.CPU, c.Memory, c.Swap, containerCPUDesc, containerMemoryDesc, containerSwapDesc, labels...)
		if c.Swap != nil && c.Swap.SwapAvailableBytes != nil {
			e.send(containerSwapLimitDesc, prometheus.GaugeValue, c.Swap.Time.Time, float64(*c.Swap.SwapAvailableBytes+*c.Swap.SwapUsageBytes), labels...)
		}
	}
	e.group(p.CPU, p.Memory, p.Swap, podCPUDesc, podMemoryDesc, podSwapDesc, p.PodRef.Name, p.PodRef.Namespace)
}
