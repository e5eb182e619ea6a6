package agent

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	corev1 "k8s.io/api/core/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// metrics are what the agent tells of itself, by upstream's names. They belong to one
// Agent: a process may hold several.
type metrics struct {
	own       *prometheus.Registry // /metrics
	resources *prometheus.Registry // /metrics/resource

	podStart                          prometheus.Histogram
	podsStarted, podsFailed           prometheus.Counter
	containersStarted, containersDead *prometheus.CounterVec
}

// podStartBuckets are upstream's, with some below: most pods start in less than its first.
var podStartBuckets = []float64{0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 4, 5, 6, 8, 10, 20, 30, 45, 60, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600}

func newMetrics(a *Agent) *metrics {
	counter := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Subsystem: "kubelet", Name: name, Help: help}
	}
	m := &metrics{
		own: prometheus.NewRegistry(), resources: prometheus.NewRegistry(),
		podStart: prometheus.NewHistogram(prometheus.HistogramOpts{Subsystem: "kubelet", Name: "pod_start_duration_seconds", Buckets: podStartBuckets,
			Help: "Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run"}),
		podsStarted:       prometheus.NewCounter(counter("started_pods_total", "Cumulative number of pods started")),
		podsFailed:        prometheus.NewCounter(counter("started_pods_errors_total", "Cumulative number of errors when starting pods")),
		containersStarted: prometheus.NewCounterVec(counter("started_containers_total", "Cumulative number of containers started"), []string{"container_type"}),
		containersDead:    prometheus.NewCounterVec(counter("started_containers_errors_total", "Cumulative number of errors when starting containers"), []string{"container_type", "code"}),
	}
	name := prometheus.NewGauge(prometheus.GaugeOpts{Subsystem: "kubelet", Name: "node_name", Help: "The node's name. The count is always 1.", ConstLabels: prometheus.Labels{"node": a.cfg.NodeName}})
	name.Set(1)
	m.own.MustRegister(name, m.podStart, m.podsStarted, m.podsFailed, m.containersStarted, m.containersDead, runningCollector{a},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.resources.MustRegister(resourceCollector{a})
	return m
}

func serveMetrics(r *prometheus.Registry) http.Handler {
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
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

// runningCollector counts pods and containers when it is asked.
type runningCollector struct{ a *Agent }

var (
	runningPodsDesc       = prometheus.NewDesc("kubelet_running_pods", "Number of pods that have a running pod sandbox", nil, nil)
	runningContainersDesc = prometheus.NewDesc("kubelet_running_containers", "Number of containers currently running", []string{"container_state"}, nil)
)

// Describe implements prometheus.Collector.
func (runningCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- runningPodsDesc
	ch <- runningContainersDesc
}

// Collect implements prometheus.Collector.
func (c runningCollector) Collect(ch chan<- prometheus.Metric) {
	pods, states := 0, map[string]int{}
	for _, p := range c.a.snapshots() {
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
	ch <- prometheus.MustNewConstMetric(runningPodsDesc, prometheus.GaugeValue, float64(pods))
	for state, n := range states {
		ch <- prometheus.MustNewConstMetric(runningContainersDesc, prometheus.GaugeValue, float64(n), state)
	}
}

// resourceCollector is /metrics/resource: what is used, of what runs now.
type resourceCollector struct{ a *Agent }

var (
	ofContainer = []string{"container", "pod", "namespace"}
	ofPod       = []string{"pod", "namespace"}

	nodeCPUDesc            = prometheus.NewDesc("node_cpu_usage_seconds_total", "Cumulative cpu time consumed by the node in core-seconds", nil, nil)
	nodeMemoryDesc         = prometheus.NewDesc("node_memory_working_set_bytes", "Current working set of the node in bytes", nil, nil)
	nodeSwapDesc           = prometheus.NewDesc("node_swap_usage_bytes", "Current swap usage of the node in bytes. Reported only on non-windows systems", nil, nil)
	containerStartDesc     = prometheus.NewDesc("container_start_time_seconds", "Start time of the container since unix epoch in seconds", ofContainer, nil)
	containerCPUDesc       = prometheus.NewDesc("container_cpu_usage_seconds_total", "Cumulative cpu time consumed by the container in core-seconds", ofContainer, nil)
	containerMemoryDesc    = prometheus.NewDesc("container_memory_working_set_bytes", "Current working set of the container in bytes", ofContainer, nil)
	containerSwapDesc      = prometheus.NewDesc("container_swap_usage_bytes", "Current amount of the container swap usage in bytes. Reported only on non-windows systems", ofContainer, nil)
	containerSwapLimitDesc = prometheus.NewDesc("container_swap_limit_bytes", "Current amount of the container swap limit in bytes. Reported only on non-windows systems", ofContainer, nil)
	podCPUDesc             = prometheus.NewDesc("pod_cpu_usage_seconds_total", "Cumulative cpu time consumed by the pod in core-seconds", ofPod, nil)
	podMemoryDesc          = prometheus.NewDesc("pod_memory_working_set_bytes", "Current working set of the pod in bytes", ofPod, nil)
	podSwapDesc            = prometheus.NewDesc("pod_swap_usage_bytes", "Current amount of the pod swap usage in bytes. Reported only on non-windows systems", ofPod, nil)
	scrapeErrorDesc        = prometheus.NewDesc("resource_scrape_error", "1 if there was an error while getting container metrics, 0 otherwise", nil, nil)
)

// Describe implements prometheus.Collector.
func (resourceCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		nodeCPUDesc, nodeMemoryDesc, nodeSwapDesc, containerStartDesc, containerCPUDesc, containerMemoryDesc, containerSwapDesc, containerSwapLimitDesc,
		podCPUDesc, podMemoryDesc, podSwapDesc, scrapeErrorDesc,
	} {
		ch <- d
	}
}

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
