package overlay

import (
	"github.com/prometheus/client_golang/prometheus"

	"kontiki/overlay/dns"
)

// Network is a prometheus.Collector: what it counts is read when somebody asks, and
// costs nothing until then.
var _ prometheus.Collector = (*Network)(nil)

var (
	podsMetric      = prometheus.NewDesc("kontiki_overlay_pods", "Pods that are attached to the pod network on this node.", nil, nil)
	frontendsMetric = prometheus.NewDesc("kontiki_overlay_service_frontends", "Addresses with port and protocol at which this node takes connections for Services and host ports.", nil, nil)
	leasesMetric    = prometheus.NewDesc("kontiki_overlay_leases", "Nodes whose part of the pod network this node knows, itself included.", nil, nil)
	repairsMetric   = prometheus.NewDesc("kontiki_overlay_service_repairs_total", "How often somebody else's change of the nftables table was put right.", nil, nil)
	dnsMetrics      = []struct {
		desc  *prometheus.Desc
		value func(dns.Stats) uint64
	}{
		{dnsMetric("questions_total", "DNS questions of pods and of the node."), func(s dns.Stats) uint64 { return s.Questions }},
		{dnsMetric("cluster_answers_total", "Answers from the cluster's own objects."), func(s dns.Stats) uint64 { return s.Cluster }},
		{dnsMetric("completed_total", "Walks along a search path that one answer ended."), func(s dns.Stats) uint64 { return s.Completed }},
		{dnsMetric("cache_hits_total", "Answers with what an upstream server had said before."), func(s dns.Stats) uint64 { return s.Cached }},
		{dnsMetric("forwards_total", "Questions passed on to upstream servers."), func(s dns.Stats) uint64 { return s.Forwarded }},
		{dnsMetric("forward_failures_total", "Questions that no upstream server answered."), func(s dns.Stats) uint64 { return s.Failed }},
	}
)

func dnsMetric(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("kontiki_dns_"+name, help, nil, nil)
}

// Describe implements prometheus.Collector.
func (n *Network) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{podsMetric, frontendsMetric, leasesMetric, repairsMetric} {
		out <- d
	}
	for _, m := range dnsMetrics {
		out <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (n *Network) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v int) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v))
	}
	counter := func(d *prometheus.Desc, v uint64) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v))
	}
	gauge(podsMetric, len(n.book.Records()))
	gauge(frontendsMetric, n.watcher.Frontends())
	gauge(leasesMetric, len(n.cfg.Leases.Leases()))
	counter(repairsMetric, n.watcher.Repairs())
	if n.dns == nil {
		return
	}
	stats := n.dns.Stats()
	for _, m := range dnsMetrics {
		counter(m.desc, m.value(stats))
	}
}
