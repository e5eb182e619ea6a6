package scheduler

import (
	"cmp"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"

	"kontiki/internal/meter"
)

// Families are what a Metrics tells, by upstream's names.
var Families meter.Set

var (
	attemptsMetric = Families.Counter("scheduler_schedule_attempts_total", "Attempts to find pods a node and to bind them, by what they came to: unschedulable means that there was no room.", "profile", "result")
	pendingMetric  = Families.Gauge("scheduler_pending_pods", "Pods without a node, on the leader: active ones are about to be planned, gated ones have a scheduling gate, the others wait for the end of their back-off or for something that may help.", "queue")
	incomingMetric = Families.Count("scheduler_queue_incoming_pods_total", "Number of pods added to scheduling queues by event and queue type.", "queue", "event")
	preemptions    = Families.Counter("scheduler_preemption_attempts_total", "Attempts to make room for a pod that fits nowhere by taking others away, whether there was anybody to take away or not.")
	attemptTime    = Families.Histogram("scheduler_scheduling_attempt_duration_seconds", "From the beginning of a pod's planning to its binding or to why there is none. Pods are planned in batches.", prometheus.ExponentialBuckets(0.001, 2, 15), "profile", "result")
	planTime       = Families.Histogram("scheduler_scheduling_algorithm_duration_seconds", "Planning of a pod: of a batch, divided by its pods.", planBuckets)
	sliTime        = Families.Histogram("scheduler_pod_scheduling_sli_duration_seconds", "From when the scheduler first saw a pod to its binding, by how many attempts that took (15 and more are one).", prometheus.ExponentialBuckets(0.01, 2, 20), "attempts")
	podAttempts    = Families.Histogram("scheduler_pod_scheduling_attempts", "Attempts that pods took to be bound.", []float64{1, 2, 4, 8, 16})
	victimsMetric  = Families.Histogram("scheduler_preemption_victims", "Pods taken away for one.", prometheus.ExponentialBuckets(1, 2, 7))
)

// planBuckets are upstream's, with some below: most pods are planned in less than its first.
var planBuckets = append([]float64{0.00001, 0.00003, 0.0001, 0.0003}, prometheus.ExponentialBuckets(0.001, 2, 15)...)

// What an attempt came to.
const (
	resultScheduled     = "scheduled"
	resultUnschedulable = "unschedulable"
	resultError         = "error"
)

// manyAttempts bounds the label attempts, as upstream does.
const manyAttempts = 15

// Metrics are what there is to tell of the schedulers of one process: they outlive a
// leadership. It is a prometheus.Collector, and safe for concurrent use.
type Metrics struct {
	plan, attempts, victims prometheus.Histogram
	attempt, sli            *prometheus.HistogramVec
	incoming                *prometheus.CounterVec
	preempted               atomic.Uint64

	mu      sync.Mutex // protects what follows
	results map[[2]string]uint64
	runs    *Scheduler // nil: none does
}

// NewMetrics makes Metrics that have counted nothing.
func NewMetrics() *Metrics {
	return &Metrics{plan: planTime.New(), attempts: podAttempts.New(), victims: victimsMetric.New(),
		attempt: attemptTime.NewVec(), sli: sliTime.NewVec(), incoming: incomingMetric.NewVec(), results: map[[2]string]uint64{}}
}

// Measured has the scheduler count into m. It is called before Run.
func (s *Scheduler) Measured(m *Metrics) *Scheduler {
	s.metrics = m
	s.queue.counted = m.came
	return s
}

// follow shows the queue of a scheduler until what it returns is called.
func (m *Metrics) follow(s *Scheduler) func() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.runs = s
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.runs == s {
			m.runs = nil
		}
	}
}

// came counts a pod that came to where it waits.
func (m *Metrics) came(where, why string) { m.incoming.WithLabelValues(where, why).Inc() }

// planned counts a batch.
func (m *Metrics) planned(pods int, took time.Duration) {
	each := took.Seconds() / float64(pods)
	for range pods {
		m.plan.Observe(each)
	}
}

// tried counts one attempt.
func (m *Metrics) tried(d decision, result string) {
	profile := cmp.Or(d.pod.Spec.SchedulerName, corev1.DefaultSchedulerName)
	m.mu.Lock()
	m.results[[2]string{profile, result}]++
	m.mu.Unlock()
	m.attempt.WithLabelValues(profile, result).Observe(time.Since(d.began).Seconds())
	if result == resultScheduled {
		m.attempts.Observe(float64(d.attempts))
		m.sli.WithLabelValues(attemptsLabel(d.attempts)).Observe(time.Since(d.since).Seconds())
	}
}

func attemptsLabel(n int) string {
	if n >= manyAttempts {
		return strconv.Itoa(manyAttempts) + "+"
	}
	return strconv.Itoa(n)
}

// preempts counts that room was looked for, and what was found.
func (m *Metrics) preempts(r room) {
	m.preempted.Add(1)
	if r.node != "" {
		m.victims.Observe(float64(len(r.victims)))
	}
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(out chan<- *prometheus.Desc) { Families.Describe(out) }

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(out chan<- prometheus.Metric) {
	m.mu.Lock()
	for key, n := range m.results {
		attemptsMetric.Send(out, float64(n), key[0], key[1])
	}
	runs := m.runs
	m.mu.Unlock()
	preemptions.Send(out, float64(m.preempted.Load()))
	for queue, n := range runs.pending() {
		pendingMetric.Send(out, float64(n), queue)
	}
	for _, c := range []prometheus.Collector{m.plan, m.attempts, m.victims, m.attempt, m.sli, m.incoming} {
		c.Collect(out)
	}
}

// pending counts the pods without a node, by upstream's names of where they wait.
func (s *Scheduler) pending() map[string]int {
	count := map[string]int{"active": 0, "backoff": 0, "unschedulable": 0, "gated": 0}
	if s == nil {
		return count
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	count["gated"] = len(s.gated)
	for _, w := range s.queue.pods {
		switch w.at {
		case active, inFlight:
			count["active"]++
		case backingOff:
			count["backoff"]++
		case unschedulable, makingRoom:
			count["unschedulable"]++
		}
	}
	return count
}
