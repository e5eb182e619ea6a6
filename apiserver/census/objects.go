package census

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"kontiki/internal/meter"
	"kontiki/raftstore"
)

// Metrics are the families that Objects tell. The library's apiserver_resource_objects is
// filled once a minute by whoever asks it to, which an idle node does not.
var Metrics meter.Set

var objectsMetric = Metrics.Gauge("kontiki_store_objects", "Objects that are stored, by their kind.", "group", "resource")

// Objects is a prometheus.Collector of how many objects of each kind a replica holds. They
// are counted when somebody asks: some ten milliseconds for a hundred thousand.
type Objects struct{ View func() raftstore.View }

// Describe implements prometheus.Collector.
func (Objects) Describe(out chan<- *prometheus.Desc) { Metrics.Describe(out) }

// Collect implements prometheus.Collector.
func (o Objects) Collect(out chan<- prometheus.Metric) {
	count := map[[2]string]int{}
	o.View().Range(registry, raftstore.PrefixEnd(registry), 0, func(kv raftstore.KV) bool {
		if group, resource, ok := kindOf(kv.Key); ok {
			count[[2]string{group, resource}]++
		}
		return true
	})
	for kind, n := range count {
		objectsMetric.Send(out, float64(n), kind[0], kind[1])
	}
}

const registry = "/registry/"

// kindOf reads a key: /registry/RESOURCE/… of the core group, /registry/GROUP/RESOURCE/… else.
func kindOf(key string) (group, resource string, ok bool) {
	first, rest, ok := strings.Cut(strings.TrimPrefix(key, registry), "/")
	if !ok {
		return "", "", false
	}
	switch first {
	case "apps", "autoscaling", "batch", "policy":
	default:
		if !strings.Contains(first, ".") {
			return "", first, true
		}
	}
	resource, _, ok = strings.Cut(rest, "/")
	return first, resource, ok
}
