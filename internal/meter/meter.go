// Package meter is how rooms say what they count: each metric family with its name, its
// help and its kind, known before anything was counted, so that docs/METRICS.md can be made
// from the code.
//
// A family costs nothing until somebody asks: gauges and counters are read from what the
// room holds anyway when its Collect runs; histograms are made by whoever observes, one for
// each instance of a room, so that two nodes in one process do not share them. Sets are
// filled while a package is initialised and only read from then on. Any room may import
// this package: a name says nothing about a room.
package meter

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

// Kind is that of a family.
type Kind string

// The kinds.
const (
	KindGauge     Kind = "gauge"
	KindCounter   Kind = "counter"
	KindHistogram Kind = "histogram"
)

// Family is one metric family.
type Family struct {
	Name, Help string
	Kind       Kind
	Labels     []string
}

// Set are the families of a room. The zero value is ready.
type Set struct{ families []Family }

// Families lists the set by name.
func (s *Set) Families() []Family {
	all := slices.Clone(s.families)
	slices.SortFunc(all, func(a, b Family) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return all
}

// Describe sends what a prometheus.Collector's Describe is to send.
func (s *Set) Describe(out chan<- *prometheus.Desc) {
	for _, f := range s.families {
		out <- prometheus.NewDesc(f.Name, f.Help, f.Labels, nil)
	}
}

func (s *Set) add(f Family) { s.families = append(s.families, f) }

// Value is a family whose values are read when somebody asks.
type Value struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

// Gauge adds a family of values that go up and down.
func (s *Set) Gauge(name, help string, labels ...string) Value {
	s.add(Family{name, help, KindGauge, labels})
	return Value{prometheus.NewDesc(name, help, labels, nil), prometheus.GaugeValue}
}

// Counter adds a family of values that only grow, until the process starts anew.
func (s *Set) Counter(name, help string, labels ...string) Value {
	s.add(Family{name, help, KindCounter, labels})
	return Value{prometheus.NewDesc(name, help, labels, nil), prometheus.CounterValue}
}

// Count is a family of values that only grow, and that are counted as things happen.
type Count struct {
	opts   prometheus.CounterOpts
	labels []string
}

// Count adds a family that is counted as things happen.
func (s *Set) Count(name, help string, labels ...string) Count {
	s.add(Family{name, help, KindCounter, labels})
	return Count{prometheus.CounterOpts{Name: name, Help: help}, labels}
}

// New makes the count of a family without labels.
func (c Count) New() prometheus.Counter { return prometheus.NewCounter(c.opts) }

// NewVec makes the counts of a family with labels.
func (c Count) NewVec() *prometheus.CounterVec { return prometheus.NewCounterVec(c.opts, c.labels) }

// Send tells a value, with one label value for each label of the family.
func (v Value) Send(out chan<- prometheus.Metric, value float64, labels ...string) {
	out <- prometheus.MustNewConstMetric(v.desc, v.kind, value, labels...)
}

// Histogram is a family of distributions.
type Histogram struct {
	opts   prometheus.HistogramOpts
	labels []string
}

// Histogram adds a family of distributions, with upper bounds of its buckets.
func (s *Set) Histogram(name, help string, buckets []float64, labels ...string) Histogram {
	s.add(Family{name, help, KindHistogram, labels})
	return Histogram{prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels}
}

// New makes a distribution of a family without labels.
func (h Histogram) New() prometheus.Histogram { return prometheus.NewHistogram(h.opts) }

// NewVec makes the distributions of a family with labels.
func (h Histogram) NewVec() *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(h.opts, h.labels)
}

// Flag is 1 for true.
func Flag(set bool) float64 {
	if set {
		return 1
	}
	return 0
}

// Short are bounds, in seconds, for what takes from a part of a millisecond to seconds.
var Short = []float64{0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5}
