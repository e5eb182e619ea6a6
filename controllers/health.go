package controllers

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kontiki/internal/meter"
)

// Health is what there is to say of the controllers of one node: it outlives a
// leadership, so that counters go on. It is a prometheus.Collector, and safe for
// concurrent use. The zero value is ready.
type Health struct {
	// Report tells the operator of a trouble that goes on, Solved that the one with
	// that key is over. Both may be nil.
	Report func(key, text string)
	Solved func(key string)

	mu     sync.Mutex // protects all below
	all    map[string]*condition
	active time.Duration // from the begin of the last leadership until caches were full
}

// condition is one controller's.
type condition struct {
	running  bool
	restarts uint64
	failures int // in a row
}

func (h *Health) of(name string) *condition {
	if h.all == nil {
		h.all = map[string]*condition{}
	}
	if h.all[name] == nil {
		h.all[name] = &condition{}
	}
	return h.all[name]
}

func (h *Health) started(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.of(name).running = true
}

// ended notes that a controller returned because its leadership ended.
func (h *Health) ended(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.of(name)
	c.running, c.failures = false, 0
}

// failed notes that a controller stopped by itself, and answers how often in a row.
func (h *Health) failed(name string, err error) int {
	h.mu.Lock()
	c := h.of(name)
	c.running = false
	c.failures++
	c.restarts++
	failures := c.failures
	h.mu.Unlock()
	if h.Report != nil {
		text, _, _ := strings.Cut(err.Error(), "\n") // without the stack
		h.Report(keyOf(name), fmt.Sprintf("controller %s stopped on this node (%s) and is started again; what it looks after stands still meanwhile, see the log", name, text))
	}
	return failures
}

// recovered notes that a controller has run well for a while.
func (h *Health) recovered(name string) {
	h.mu.Lock()
	c := h.of(name)
	troubled := c.failures > 0
	c.failures = 0
	h.mu.Unlock()
	if troubled && h.Solved != nil {
		h.Solved(keyOf(name))
	}
}

func (h *Health) activeAfter(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.active = d
}

func keyOf(name string) string { return "controller/" + name }

// Metrics are the families that a Health tells.
var Metrics meter.Set

var (
	runningMetric  = Metrics.Gauge("kontiki_controller_running", "Whether the controller runs on this node: on the leader each does.", "controller")
	restartsMetric = Metrics.Counter("kontiki_controller_restarts_total", "How often the controller stopped by itself, by a panic or an error, and was started again.", "controller")
	activeMetric   = Metrics.Gauge("kontiki_controllers_active_after_seconds", "How long after this node's last election its controllers knew the cluster and worked.")
)

// Describe implements prometheus.Collector.
func (h *Health) Describe(out chan<- *prometheus.Desc) { Metrics.Describe(out) }

// Collect implements prometheus.Collector.
func (h *Health) Collect(out chan<- prometheus.Metric) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(h.all)) {
		c := h.all[name]
		runningMetric.Send(out, meter.Flag(c.running), name)
		restartsMetric.Send(out, float64(c.restarts), name)
	}
	if h.active > 0 {
		activeMetric.Send(out, h.active.Seconds())
	}
}
