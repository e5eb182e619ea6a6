package overlay

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kontiki/internal/meter"
	"kontiki/overlay/dns"
)

// Metrics are the families that a Network tells as a prometheus.Collector.
var Metrics meter.Set

var (
	podsMetric      = Metrics.Gauge("kontiki_overlay_pods", "Pods that are attached to the pod network on this node.")
	frontendsMetric = Metrics.Gauge("kontiki_overlay_service_frontends", "Addresses with port and protocol at which this node takes connections for Services and host ports.")
	leasesMetric    = Metrics.Gauge("kontiki_overlay_leases", "Nodes whose part of the pod network this node knows, itself included.")
	routesMetric    = Metrics.Gauge("kontiki_overlay_routes", "Routes that this node's kernel is to hold: one for each subnet of other nodes, and those of Services.")
	mtuMetric       = Metrics.Gauge("kontiki_overlay_mtu_bytes", "What pods of this node may send in one packet; 0 until it is known.")
	comparedMetric  = Metrics.Counter("kontiki_overlay_comparisons_total", "How often the kernel's network configuration was compared with what it should be.")
	changesMetric   = Metrics.Counter("kontiki_overlay_changes_total", "What those comparisons changed in the kernel.")
	failuresMetric  = Metrics.Counter("kontiki_overlay_comparison_failures_total", "Comparisons after which something was not as it should be.")
	repairsMetric   = Metrics.Counter("kontiki_overlay_service_repairs_total", "How often somebody else's change of the nftables table was put right.")
	fullTime        = Metrics.Histogram("kubeproxy_sync_full_proxy_rules_duration_seconds", "Writing all Services into nftables.", meter.Short)
	partTime        = Metrics.Histogram("kubeproxy_sync_partial_proxy_rules_duration_seconds", "Writing changed Services into nftables.", meter.Short)
	dnsTime         = Metrics.Histogram("kontiki_dns_request_duration_seconds", "Answers to DNS questions, those of upstream servers included.", meter.Short)
	dnsMetrics      = []struct {
		family meter.Value
		value  func(dns.Stats) uint64
	}{
		{dnsMetric("questions_total", "DNS questions of pods and of the node."), func(s dns.Stats) uint64 { return s.Questions }},
		{dnsMetric("cluster_answers_total", "Answers from the cluster's own objects."), func(s dns.Stats) uint64 { return s.Cluster }},
		{dnsMetric("completed_total", "Walks along a search path that one answer ended."), func(s dns.Stats) uint64 { return s.Completed }},
		{dnsMetric("cache_hits_total", "Answers with what an upstream server had said before."), func(s dns.Stats) uint64 { return s.Cached }},
		{dnsMetric("forwards_total", "Questions passed on to upstream servers."), func(s dns.Stats) uint64 { return s.Forwarded }},
		{dnsMetric("forward_failures_total", "Questions that no upstream server answered."), func(s dns.Stats) uint64 { return s.Failed }},
	}
)

func dnsMetric(name, help string) meter.Value { return Metrics.Counter("kontiki_dns_"+name, help) }

// figures are what a network counts as it goes; all else is read when somebody asks.
type figures struct {
	full, part, dns             prometheus.Histogram
	compared, changed, failures uint64 // under Network.mu
	routes                      int    // wanted by the last comparison; under Network.mu
}

func newFigures() figures {
	return figures{full: fullTime.New(), part: partTime.New(), dns: dnsTime.New()}
}

// timed runs do and notes how long it took, if it worked.
func timed(h prometheus.Histogram, do func() error) error {
	began := time.Now()
	err := do()
	if err == nil {
		h.Observe(time.Since(began).Seconds())
	}
	return err
}

// Describe implements prometheus.Collector.
func (n *Network) Describe(out chan<- *prometheus.Desc) { Metrics.Describe(out) }

// Collect implements prometheus.Collector: what it counts is read when somebody asks, and
// costs nothing until then.
func (n *Network) Collect(out chan<- prometheus.Metric) {
	n.mu.Lock()
	compared, changed, failures, routes, mtu := n.figures.compared, n.figures.changed, n.figures.failures, n.figures.routes, n.mtu
	n.mu.Unlock()
	podsMetric.Send(out, float64(len(n.book.Records())))
	frontendsMetric.Send(out, float64(n.watcher.Frontends()))
	leasesMetric.Send(out, float64(len(n.cfg.Leases.Leases())))
	routesMetric.Send(out, float64(routes))
	mtuMetric.Send(out, float64(mtu))
	comparedMetric.Send(out, float64(compared))
	changesMetric.Send(out, float64(changed))
	failuresMetric.Send(out, float64(failures))
	repairsMetric.Send(out, float64(n.watcher.Repairs()))
	for _, h := range []prometheus.Histogram{n.figures.full, n.figures.part, n.figures.dns} {
		out <- h
	}
	if n.dns == nil {
		return
	}
	stats := n.dns.Stats()
	for _, m := range dnsMetrics {
		m.family.Send(out, float64(m.value(stats)))
	}
}
