package node

import (
	"strings"
	"sync"
	"time"

	gometrics "github.com/hashicorp/go-metrics"
	"github.com/prometheus/client_golang/prometheus"

	"kontiki/internal/meter"
)

// libraries are the families that raft and memberlist tell of themselves.
var libraries meter.Set

var (
	raftProposed    = libraries.Count("raft_proposed_total", "What this node's Raft was asked to put into its log, by what it was.", "what")
	raftStates      = libraries.Count("raft_state_changes_total", "How often this node's Raft came to a state.", "state")
	raftTimeouts    = libraries.Count("raft_timeouts_total", "How often this node waited too long: for a leader's heartbeat, or, as the leader, for a majority.", "timeout")
	raftReplicated  = libraries.Count("raft_replicated_entries_total", "Entries that this node sent to other members as the leader.")
	raftCommit      = libraries.Histogram("raft_commit_duration_seconds", "From a proposal on the leader to its commit.", meter.Short)
	raftStore       = libraries.Histogram("raft_leader_dispatch_duration_seconds", "Writes of entries to the leader's own log.", meter.Short)
	raftFSM         = libraries.Histogram("raft_fsm_duration_seconds", "What the state machine is asked to do, and the waiting for its queue (enqueue).", meter.Short, "operation")
	raftRPC         = libraries.Histogram("raft_rpc_duration_seconds", "Requests of other members that this node answered; of appendEntries also its steps.", meter.Short, "rpc")
	raftReplication = libraries.Histogram("raft_replication_duration_seconds", "Requests of this node, as the leader, to other members, until the answer.", meter.Short, "rpc")
	raftSnapshot    = libraries.Histogram("raft_snapshot_duration_seconds", "Snapshots, their steps, and what follows: the shortening of the log.", meter.Short, "step")
	raftContact     = libraries.Histogram("raft_leader_last_contact_seconds", "For how long the leader has not heard a member, whenever it looks.", meter.Short)
	raftSaturation  = libraries.Gauge("raft_thread_saturation", "The share of its time that one of Raft's threads was busy, when it looked last.", "thread")

	memberlistBytes    = libraries.Count("memberlist_sent_bytes_total", "Bytes that memberlist sent, in datagrams and over streams.", "protocol")
	memberlistStreams  = libraries.Count("memberlist_streams_total", "Streams that memberlist opened and accepted.", "direction")
	memberlistMessages = libraries.Count("memberlist_messages_total", "News of members that were heard, by what they say.", "message")
	memberlistDegraded = libraries.Count("memberlist_degraded_total", "How often this node was slow itself: a probe that it made late, a suspicion that it let run out without being confirmed by others.", "what")
	memberlistTime     = libraries.Histogram("memberlist_duration_seconds", "Probes of members, rounds of gossip, and exchanges of whole states.", meter.Short, "operation")
	memberlistQueue    = libraries.Histogram("memberlist_queued_broadcasts", "News that wait to be passed on, whenever memberlist looks.", []float64{0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000})
	memberlistState    = libraries.Histogram("memberlist_remote_state_bytes", "Whole states that other members sent.", prometheus.ExponentialBuckets(256, 4, 8))
)

// millisecond is what these libraries tell durations in.
const millisecond = 1e-3

// librarySink takes what raft and memberlist count through go-metrics, into families that are known
// beforehand: their own labels and keys name members, of which there may be any number in
// time, so that what is not listed here is dropped. It is a gometrics.MetricSink and a
// prometheus.Collector, safe for concurrent use.
type librarySink struct {
	counters map[string]prometheus.Counter
	samples  map[string]sampled
	families []prometheus.Collector

	mu      sync.Mutex // protects what follows
	threads map[string]float64
}

// sampled is where a sample goes, and in which unit it comes.
type sampled struct {
	into prometheus.Observer
	unit float64
}

// newLibrarySink makes a sink that has counted nothing.
func newLibrarySink() *librarySink {
	s := &librarySink{counters: map[string]prometheus.Counter{}, samples: map[string]sampled{}, threads: map[string]float64{}}
	count := func(c meter.Count, keys map[string][]string) {
		vec := c.NewVec()
		s.families = append(s.families, vec)
		for key, labels := range keys {
			s.counters[key] = vec.WithLabelValues(labels...)
		}
	}
	timed := func(h meter.Histogram, prefix string, labels ...string) {
		vec := h.NewVec()
		s.families = append(s.families, vec)
		for _, label := range labels {
			s.samples[prefix+label] = sampled{vec.WithLabelValues(label), millisecond}
		}
	}
	one := func(h meter.Histogram, key string, unit float64) {
		all := h.New()
		s.families = append(s.families, all)
		s.samples[key] = sampled{all, unit}
	}
	count(raftProposed, map[string][]string{"raft.apply": {"commands"}, "raft.barrier": {"barrier"}})
	count(raftStates, map[string][]string{"raft.state.follower": {"follower"}, "raft.state.candidate": {"candidate"}, "raft.state.leader": {"leader"}})
	count(raftTimeouts, map[string][]string{"raft.transition.heartbeat_timeout": {"heartbeat"}, "raft.transition.leader_lease_timeout": {"leader lease"}})
	count(raftReplicated, map[string][]string{"raft.replication.appendEntries.logs": nil})
	one(raftCommit, "raft.commitTime", millisecond)
	one(raftStore, "raft.leader.dispatchLog", millisecond)
	timed(raftFSM, "raft.fsm.", "apply", "store_config", "enqueue", "snapshot", "restore")
	timed(raftRPC, "raft.rpc.", "appendEntries", "appendEntries.storeLogs", "appendEntries.processLogs", "processHeartbeat", "requestVote", "requestPreVote", "installSnapshot")
	timed(raftReplication, "raft.replication.", "heartbeat", "appendEntries.rpc", "installSnapshot")
	timed(raftSnapshot, "raft.snapshot.", "takeSnapshot", "create", "persist")
	one(raftContact, "raft.leader.lastContact", millisecond)
	count(memberlistBytes, map[string][]string{"memberlist.udp.sent": {"udp"}, "memberlist.tcp.sent": {"tcp"}})
	count(memberlistStreams, map[string][]string{"memberlist.tcp.connect": {"opened"}, "memberlist.tcp.accept": {"accepted"}})
	count(memberlistMessages, map[string][]string{"memberlist.msg.alive": {"alive"}, "memberlist.msg.suspect": {"suspect"}, "memberlist.msg.dead": {"dead"}})
	count(memberlistDegraded, map[string][]string{"memberlist.degraded.probe": {"probe"}, "memberlist.degraded.timeout": {"timeout"}})
	timed(memberlistTime, "memberlist.", "probeNode", "gossip", "pushPullNode")
	one(memberlistQueue, "memberlist.queue.broadcasts", 1)
	one(memberlistState, "memberlist.size.remote", 1)
	return s
}

// showLibraries shows what the libraries of this process count, from now on. They know one place to
// tell it, which is the process's.
func (n *node) showLibraries(life *lifecycle) error {
	s := newLibrarySink()
	if err := tellLibraries(s); err != nil {
		return err
	}
	life.onStop("library metrics", func() error { return tellLibraries(&gometrics.BlackholeSink{}) })
	return n.showMetrics(s, life)
}

// tellLibraries has the libraries of this process count into a sink.
func tellLibraries(sink gometrics.MetricSink) error {
	// Neither a host's name before the keys, nor a goroutine that looks at the runtime.
	_, err := gometrics.NewGlobal(&gometrics.Config{TimerGranularity: time.Millisecond, FilterDefault: true}, sink)
	return err
}

// Describe implements prometheus.Collector.
func (s *librarySink) Describe(out chan<- *prometheus.Desc) { libraries.Describe(out) }

// Collect implements prometheus.Collector.
func (s *librarySink) Collect(out chan<- prometheus.Metric) {
	for _, f := range s.families {
		f.Collect(out)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for thread, share := range s.threads {
		raftSaturation.Send(out, share, thread)
	}
}

// joined is a key as it stands in the tables.
func joined(key []string) string { return strings.Join(key, ".") }

// IncrCounter implements gometrics.MetricSink.
func (s *librarySink) IncrCounter(key []string, n float32) {
	if c, ok := s.counters[joined(key)]; ok && n > 0 {
		c.Add(float64(n))
	}
}

// IncrCounterWithLabels implements gometrics.MetricSink.
func (s *librarySink) IncrCounterWithLabels(key []string, n float32, _ []gometrics.Label) {
	s.IncrCounter(key, n)
}

// AddSample implements gometrics.MetricSink.
func (s *librarySink) AddSample(key []string, value float32) {
	full := joined(key)
	if to, ok := s.samples[full]; ok {
		to.into.Observe(float64(value) * to.unit)
		return
	}
	if thread, ok := saturated[full]; ok {
		s.mu.Lock()
		s.threads[thread] = float64(value)
		s.mu.Unlock()
	}
}

// saturated are the threads of Raft that tell how busy they are.
var saturated = map[string]string{"raft.thread.main.saturation": "main", "raft.thread.fsm.saturation": "fsm"}

// AddSampleWithLabels implements gometrics.MetricSink.
func (s *librarySink) AddSampleWithLabels(key []string, value float32, _ []gometrics.Label) {
	s.AddSample(key, value)
}

// SetGauge implements gometrics.MetricSink. What these libraries tell as gauges, the rooms do.
func (s *librarySink) SetGauge([]string, float32) {}

// SetGaugeWithLabels implements gometrics.MetricSink.
func (s *librarySink) SetGaugeWithLabels([]string, float32, []gometrics.Label) {}

// EmitKey implements gometrics.MetricSink. Neither library does.
func (s *librarySink) EmitKey([]string, float32) {}
