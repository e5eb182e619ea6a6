// Package metertest reads what a collector tells, for tests. Functions may be called
// concurrently. Only tests import it.
package metertest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"kontiki/internal/meter"
)

// Read gathers a collector as Prometheus would and returns its values by name and labels,
// as in `family{label="value"}`; of a histogram, how many values it has seen. Everything
// must be declared in the set as what it is.
func Read(t testing.TB, set *meter.Set, c prometheus.Collector) map[string]float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(c); err != nil {
		t.Fatal(err)
	}
	gathered, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]meter.Kind{}
	for _, f := range set.Families() {
		kinds[f.Name] = f.Kind
	}
	out := map[string]float64{}
	for _, family := range gathered {
		if kind := strings.ToLower(family.GetType().String()); string(kinds[family.GetName()]) != kind {
			t.Errorf("%s is a %s, and declared as %q", family.GetName(), kind, kinds[family.GetName()])
		}
		for _, m := range family.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			key := family.GetName()
			if len(labels) > 0 {
				key += "{" + strings.Join(labels, ",") + "}"
			}
			switch {
			case m.Histogram != nil:
				out[key] = float64(m.GetHistogram().GetSampleCount())
			case m.Counter != nil:
				out[key] = m.GetCounter().GetValue()
			default:
				out[key] = m.GetGauge().GetValue()
			}
		}
	}
	return out
}
