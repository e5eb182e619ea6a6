package raftstore

import (
	"io/fs"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"

	"kontiki/internal/meter"
)

// Metrics are the families that a Store tells as a prometheus.Collector.
var Metrics meter.Set

var (
	termMetric     = Metrics.Gauge("kontiki_raft_term", "Raft's term, as this node knows it.")
	leaderMetric   = Metrics.Gauge("kontiki_raft_leader", "1 if this node leads.")
	hasLeader      = Metrics.Gauge("kontiki_raft_has_leader", "1 if this node knows of a leader.")
	membersMetric  = Metrics.Gauge("kontiki_raft_members", "Members of the Raft group, by whether they vote.", "suffrage")
	lastIndex      = Metrics.Gauge("kontiki_raft_last_index", "The last entry of this node's log.")
	commitIndex    = Metrics.Gauge("kontiki_raft_commit_index", "The last entry that this node knows to be committed.")
	appliedIndex   = Metrics.Gauge("kontiki_raft_applied_index", "The last entry with commands that this node's replica shows.")
	lastContact    = Metrics.Gauge("kontiki_raft_leader_last_contact_seconds", "For how long this node has not heard the leader; left out on the leader, and before it ever has.")
	peerLag        = Metrics.Gauge("kontiki_raft_peer_lag_entries", "On the leader: by how many entries a member's log was behind when it answered last.", "member")
	candidacies    = Metrics.Counter("kontiki_raft_candidacies_total", "How often this node stood for election.")
	electionsWon   = Metrics.Counter("kontiki_raft_elections_won_total", "How often this node became the leader.")
	leaderChanges  = Metrics.Counter("kontiki_raft_leader_changes_seen_total", "How often another leader was seen than the one before.")
	revisionMetric = Metrics.Gauge("kontiki_store_revision", "The revision that this node's replica shows.")
	compacted      = Metrics.Gauge("kontiki_store_compacted_revision", "The revision to which history reaches back on this node.")
	keysMetric     = Metrics.Gauge("kontiki_store_keys", "Keys in the store.")
	watchesMetric  = Metrics.Gauge("kontiki_store_watches", "Watches of the store by this node.")
	historyBytes   = Metrics.Gauge("kontiki_store_history_bytes", "What the kept events take in memory.")
	logBytes       = Metrics.Gauge("kontiki_store_log_bytes", "What Raft's log takes on disk.")
	snapshotBytes  = Metrics.Gauge("kontiki_store_snapshot_bytes", "What the snapshots take on disk.")
	diskFailing    = Metrics.Gauge("kontiki_store_disk_failing", "1 while this node cannot write to its disk.")
	replicaDamaged = Metrics.Gauge("kontiki_store_replica_damaged", "1 while this node's replica is known to hold something else than what was written, and is being refilled.")
	unclearMetric  = Metrics.Gauge("kontiki_store_replicas_unclear", "On the leader: 1 while replicas differ and there is no majority to say which is right.")
	refillsMetric  = Metrics.Counter("kontiki_store_replica_refills_total", "How often this node's replica was found damaged and refilled since the node started.")
	scrubsMetric   = Metrics.Counter("kontiki_store_scrubs_total", "How often this node hashed anew all that its replica holds.")
	comparisons    = Metrics.Counter("kontiki_store_comparisons_total", "Comparisons of all replicas by this node as the leader, by what they came to.", "result")

	batchMetric    = Metrics.Histogram("kontiki_store_batch_commands", "Commands that the leader gathered into one log entry.", []float64{1, 2, 4, 8, 16, 32, 64})
	commitDuration = Metrics.Histogram("kontiki_store_commit_duration_seconds", "From the proposal of a log entry to its being applied, on the leader.", meter.Short)
	diskDuration   = Metrics.Histogram("kontiki_store_disk_write_duration_seconds", "Writes of log entries to disk, fsync included.", meter.Short)
	readDuration   = Metrics.Histogram("kontiki_store_read_round_duration_seconds", "Rounds by which the leader confirms that it leads, for linearizable reads.", meter.Short)
	snapDuration   = Metrics.Histogram("kontiki_store_snapshot_duration_seconds", "Writes of snapshots.", []float64{0.001, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60})
)

// figures are what a store counts as it goes; all else is read when somebody asks.
type figures struct {
	batch, commit, disk, read, snapshot prometheus.Histogram

	candidacies, won, leaders           atomic.Uint64
	last                                atomic.Pointer[string] // leader that was seen
	scrubs, agreed, differed, undecided atomic.Uint64
}

func newFigures() *figures {
	return &figures{batch: batchMetric.New(), commit: commitDuration.New(), disk: diskDuration.New(), read: readDuration.New(), snapshot: snapDuration.New()}
}

func since(h prometheus.Histogram, began time.Time) { h.Observe(time.Since(began).Seconds()) }

// Describe implements prometheus.Collector.
func (s *Store) Describe(out chan<- *prometheus.Desc) { Metrics.Describe(out) }

// Collect implements prometheus.Collector.
func (s *Store) Collect(out chan<- prometheus.Metric) {
	now := s.Status()
	self := now.Role == raft.Leader.String()
	send := func(v meter.Value, number uint64) { v.Send(out, float64(number)) }
	send(termMetric, now.Term)
	leaderMetric.Send(out, meter.Flag(self))
	hasLeader.Send(out, meter.Flag(now.LeaderID != ""))
	voters := 0
	for _, m := range now.Members {
		if m.Voter {
			voters++
		}
	}
	membersMetric.Send(out, float64(voters), "voter")
	membersMetric.Send(out, float64(len(now.Members)-voters), "nonvoter")
	send(lastIndex, now.LastIndex)
	send(commitIndex, s.raft.CommitIndex())
	send(appliedIndex, now.AppliedIndex)
	if !self && !now.LastContact.IsZero() {
		lastContact.Send(out, max(time.Since(now.LastContact), 0).Seconds())
	}
	if self {
		for id, lag := range s.transport.lags(now.Members, now.LastIndex) {
			peerLag.Send(out, float64(lag), id)
		}
	}
	send(revisionMetric, now.Revision)
	send(compacted, now.Compacted)
	send(keysMetric, uint64(now.Keys))
	send(watchesMetric, uint64(s.fsm.watchers.len()))
	send(historyBytes, uint64(s.fsm.historyBytes()))
	send(logBytes, sizeOf(filepath.Join(s.cfg.Dir, boltFileName))+sizeOf(filepath.Join(s.cfg.Dir, walDir)))
	send(snapshotBytes, sizeOf(filepath.Join(s.cfg.Dir, "snapshots")))
	diskFailing.Send(out, meter.Flag(now.DiskFailing))
	replicaDamaged.Send(out, meter.Flag(!now.Damaged.IsZero()))
	unclearMetric.Send(out, meter.Flag(now.Unclear != ""))
	send(refillsMetric, now.Refills)
	s.figures.collect(out)
}

func (f *figures) collect(out chan<- prometheus.Metric) {
	candidacies.Send(out, float64(f.candidacies.Load()))
	electionsWon.Send(out, float64(f.won.Load()))
	leaderChanges.Send(out, float64(f.leaders.Load()))
	scrubsMetric.Send(out, float64(f.scrubs.Load()))
	comparisons.Send(out, float64(f.agreed.Load()), "agree")
	comparisons.Send(out, float64(f.differed.Load()), "differ")
	comparisons.Send(out, float64(f.undecided.Load()), "unclear")
	for _, h := range []prometheus.Histogram{f.batch, f.commit, f.disk, f.read, f.snapshot} {
		out <- h
	}
}

// sizeOf is what a file, or all below a folder, holds, in bytes. What goes while it is
// looked at counts for nothing.
func sizeOf(path string) (size uint64) {
	_ = filepath.WalkDir(path, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return nil // it is gone, or is counted file by file
		}
		if info, err := entry.Info(); err == nil {
			size += uint64(info.Size())
		}
		return nil
	})
	return size
}

// lags are by how much the logs of members that have answered are behind.
func (t *transport) lags(members []Member, last uint64) map[string]uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	lags := map[string]uint64{}
	for _, m := range members {
		if p := t.peers[raft.ServerID(m.ID)]; p != nil && !p.heard.IsZero() {
			lags[m.ID] = last - min(p.lastLog, last)
		}
	}
	return lags
}

func (ws *watchers) len() (n int) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for _, set := range ws.watches {
		n += len(set)
	}
	return n
}

func (f *fsm) historyBytes() int {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.history.bytes
}
