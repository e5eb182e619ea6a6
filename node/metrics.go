package node

import (
	"github.com/prometheus/client_golang/prometheus"

	"kontiki/raftstore"
)

var (
	replicaDamaged = prometheus.NewDesc("kontiki_store_replica_damaged",
		"1 while this node's replica is known to hold something else than what was written, and is being refilled.", nil, nil)
	replicasUnclear = prometheus.NewDesc("kontiki_store_replicas_unclear",
		"On the leader: 1 while replicas differ and there is no majority to say which is right.", nil, nil)
	replicaRefills = prometheus.NewDesc("kontiki_store_replica_refills_total",
		"How often this node's replica was found damaged and refilled since the node started.", nil, nil)
)

// storeMetrics shows the self-check of the store. It is a prometheus.Collector.
type storeMetrics struct{ store *raftstore.Store }

// Describe implements prometheus.Collector.
func (storeMetrics) Describe(out chan<- *prometheus.Desc) {
	out <- replicaDamaged
	out <- replicasUnclear
	out <- replicaRefills
}

// Collect implements prometheus.Collector.
func (m storeMetrics) Collect(out chan<- prometheus.Metric) {
	s := m.store.Status()
	flag := func(set bool) float64 {
		if set {
			return 1
		}
		return 0
	}
	out <- prometheus.MustNewConstMetric(replicaDamaged, prometheus.GaugeValue, flag(!s.Damaged.IsZero()))
	out <- prometheus.MustNewConstMetric(replicasUnclear, prometheus.GaugeValue, flag(s.Unclear != ""))
	out <- prometheus.MustNewConstMetric(replicaRefills, prometheus.CounterValue, float64(s.Refills))
}
