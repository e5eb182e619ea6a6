package gossip

import (
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus"

	"kontiki/internal/meter"
)

// Metrics are the families that a Ring tells as a prometheus.Collector.
var Metrics meter.Set

var (
	membersMetric = Metrics.Gauge("kontiki_ring_members", "Members of the ring, this node included, by what they are held for.", "state")
	leasesMetric  = Metrics.Gauge("kontiki_ring_leases", "Subnet leases that the ring holds.")
	healthMetric  = Metrics.Gauge("kontiki_ring_health_score", "How unwell this node thinks it is itself, by probes that it missed: 0 is well, and the higher, the more patient it is with others.")
	joinsMetric   = Metrics.Counter("kontiki_ring_joins_total", "How often a member was met, or met again.")
	lossesMetric  = Metrics.Counter("kontiki_ring_losses_total", "How often a member was held for gone from then on, by whether it had said that it stops.", "state")
	livesMetric   = Metrics.Counter("kontiki_ring_lives_total", "How often this node entered the ring: at its start, and whenever its address changed.")
	suspicions    = Metrics.Counter("kontiki_ring_suspicions_total", "How often this node suspected a member that did not answer a probe, directly or through others.")
	refusals      = Metrics.Counter("kontiki_ring_refusals_total", "Messages of nodes that are kept out, by why.", "reason")
	packetsMetric = Metrics.Counter("kontiki_ring_packets_total", "Datagrams of the ring.", "direction")
	bytesMetric   = Metrics.Counter("kontiki_ring_packet_bytes_total", "Bytes in datagrams of the ring.", "direction")
	probeMetric   = Metrics.Histogram("kontiki_ring_probe_duration_seconds", "Round trips of probes that were answered directly.", meter.Short)
)

// figures are what a ring counts as it goes.
type figures struct {
	joins, dead, left, lives, suspicions                 atomic.Uint64
	secret, cluster, epoch, removed                      atomic.Uint64
	packetsIn, packetsOut, packetBytesIn, packetBytesOut atomic.Uint64
	probes                                               prometheus.Histogram
}

func (f *figures) refused(kind RefusalKind) {
	switch kind {
	case RefusedSecret:
		f.secret.Add(1)
	case RefusedCluster:
		f.cluster.Add(1)
	case RefusedEpoch:
		f.epoch.Add(1)
	case RefusedRemoved:
		f.removed.Add(1)
	}
}

// Describe implements prometheus.Collector.
func (r *Ring) Describe(out chan<- *prometheus.Desc) { Metrics.Describe(out) }

// Collect implements prometheus.Collector.
func (r *Ring) Collect(out chan<- prometheus.Metric) {
	states := map[State]int{StateAlive: 0, StateUnknown: 0, StateDead: 0, StateLeft: 0}
	r.mu.Lock()
	for _, m := range r.dir.list() {
		states[m.State]++
	}
	leases := len(r.leases.all())
	score := r.score
	r.mu.Unlock()
	for state, n := range states {
		membersMetric.Send(out, float64(n), string(state))
	}
	leasesMetric.Send(out, float64(leases))
	if score != nil {
		healthMetric.Send(out, float64(score()))
	}
	f := &r.figures
	count := func(v meter.Value, n *atomic.Uint64, labels ...string) { v.Send(out, float64(n.Load()), labels...) }
	count(joinsMetric, &f.joins)
	count(lossesMetric, &f.dead, string(StateDead))
	count(lossesMetric, &f.left, string(StateLeft))
	count(livesMetric, &f.lives)
	count(suspicions, &f.suspicions)
	count(refusals, &f.secret, string(RefusedSecret))
	count(refusals, &f.cluster, string(RefusedCluster))
	count(refusals, &f.epoch, string(RefusedEpoch))
	count(refusals, &f.removed, string(RefusedRemoved))
	count(packetsMetric, &f.packetsIn, "received")
	count(packetsMetric, &f.packetsOut, "sent")
	count(bytesMetric, &f.packetBytesIn, "received")
	count(bytesMetric, &f.packetBytesOut, "sent")
	out <- f.probes
}

var _ memberlist.PingDelegate = (*delegate)(nil)

// AckPayload adds nothing to the answers to probes.
func (d *delegate) AckPayload() []byte { return nil }

// NotifyPingComplete hears how long an answered probe took.
func (d *delegate) NotifyPingComplete(_ *memberlist.Node, rtt time.Duration, _ []byte) {
	d.r.figures.probes.Observe(rtt.Seconds())
}

// hear counts what only memberlist's log tells of.
func (f *figures) hear(line string) {
	if strings.HasPrefix(line, "Suspect ") {
		f.suspicions.Add(1)
	}
}
