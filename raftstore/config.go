package raftstore

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/hashicorp/raft"
)

// Config says what a Store is made of. Fields without a remark are required.
type Config struct {
	NodeID    string
	ClusterID string
	Epoch     Epoch  // of the cluster; empty until it was recovered or restored
	Dir       string // directory of the store; made if it is missing

	// Log is what a blank Dir keeps its log in; LogBolt when empty. One that is in
	// use is opened as what it is, and refused if another is named here.
	Log LogStore

	// The store closes both when it is closed.
	Raft  Streams // Raft's own RPCs
	Calls Streams // forwarded transactions, read-index, changes of members

	// Founders are the node ids of the first voters. They are used only when Dir
	// is blank and this node is one of them; all founders are given the same set.
	Founders []string
	// Nonvoters are founders that begin without a vote; used as Founders are.
	Nonvoters []string

	// Refused, if set, is told of nodes of other epochs, whoever of the two calls; it
	// must return quickly.
	Refused func(nodeID string, why error)

	Logger *slog.Logger // names the room, if that is wished; default: slog.Default()

	MaxTxnBytes int           // of one encoded transaction; default 1.5 MiB
	EventBytes  int           // of history kept for watches and old revisions; default 16 MiB
	EventAge    time.Duration // after which the leader compacts history; default 5 min, negative: never
	Timers      Timers
	// Refilled, if set, is told of each refill of this replica, and why it was needed. It must
	// return quickly.
	Refilled func(why error)
	// Now is the time by which times to live end; default time.Now. It should be near
	// other nodes' even where the machine's clock is wrong.
	Now           func() time.Time
	SnapshotAfter uint64 // log entries between Raft snapshots; default 8192
	TrailingLogs  uint64 // log entries kept behind a snapshot; default 4096

	// ScrubEvery is the time between two looks at all that lies in memory; default 10 min.
	ScrubEvery time.Duration
	// CompareEvery is how long after a write the leader compares the replicas; default 1 min.
	CompareEvery time.Duration

	// aroundWrite, if set, is put around each write to the log and stable store.
	// Tests make disks of it that fill up or hang.
	aroundWrite func(write func() error) error
	// commandVersion is CommandVersion, but where tests make members of several versions.
	commandVersion uint8

	// What a store is built on: the directory's files, unless a test puts doubles here
	// that lose what was not synced.
	openLog       func(dir string, is identity, log *slog.Logger) (logStore, error)
	openSnapshots func(dir string, log *raftLogger) (raft.SnapshotStore, error)
}

// Timers are Raft's. They must be equal on all nodes of a cluster.
type Timers struct {
	// Heartbeat is how long a follower hears nothing before it seeks votes, and
	// little more than that is what a fail-over takes; Election is how long a
	// candidate waits. Default 300 ms each.
	Heartbeat, Election time.Duration
	// Lease is how long a leader that hears of no majority goes on, and at most Heartbeat. Default
	// 250 ms: with 125 ms, busy machines saw false elections.
	Lease time.Duration
	// Commit is how long after the last entries a peer is asked to append none, so
	// that it hears of their commit; then again while it, or heartbeats, are not answered
	// (quiet.go), after once to twice as long each time. It is at most half the lease, since a
	// lease is renewed by that, too, when a heartbeat is lost. Default 100 ms.
	Commit time.Duration
	// DiskStall is how long a leader's write to disk may take before the node
	// gives its leadership up. Default 5 s: a busy disk is not a broken one.
	DiskStall time.Duration
}

const (
	defaultMaxTxnBytes   = 3 << 19
	defaultEventBytes    = 16 << 20
	defaultEventAge      = 5 * time.Minute
	defaultSnapshotAfter = 8192
	defaultTrailingLogs  = 4096
	defaultScrubEvery    = 10 * time.Minute
	defaultCompareEvery  = time.Minute
)

func (c Config) withDefaults() (Config, error) {
	switch {
	case c.NodeID == "":
		return c, errors.New("raftstore: Config.NodeID is empty")
	case c.ClusterID == "":
		return c, errors.New("raftstore: Config.ClusterID is empty")
	case c.Dir == "":
		return c, errors.New("raftstore: Config.Dir is empty")
	case c.Raft == nil || c.Calls == nil:
		return c, errors.New("raftstore: Config.Raft and Config.Calls must be set")
	}
	if err := c.Epoch.Valid(); err != nil {
		return c, err
	}
	if _, err := ParseLogStore(string(c.Log)); err != nil {
		return c, fmt.Errorf("raftstore: Config.Log: %w", err)
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	orDefault(&c.commandVersion, CommandVersion)
	orDefault(&c.MaxTxnBytes, defaultMaxTxnBytes)
	orDefault(&c.EventBytes, defaultEventBytes)
	orDefault(&c.EventAge, defaultEventAge)
	orDefault(&c.SnapshotAfter, defaultSnapshotAfter)
	orDefault(&c.TrailingLogs, defaultTrailingLogs)
	orDefault(&c.ScrubEvery, defaultScrubEvery)
	orDefault(&c.CompareEvery, defaultCompareEvery)
	orDefault(&c.Timers.Heartbeat, 300*time.Millisecond)
	orDefault(&c.Timers.Election, 300*time.Millisecond)
	orDefault(&c.Timers.Lease, 250*time.Millisecond)
	orDefault(&c.Timers.Commit, 100*time.Millisecond)
	orDefault(&c.Timers.DiskStall, 5*time.Second)
	if c.Timers.Commit > c.Timers.Lease/2 {
		return c, fmt.Errorf("raftstore: Timers.Commit %v is more than half of Timers.Lease %v: leaders would lose their lease while idle",
			c.Timers.Commit, c.Timers.Lease)
	}
	if c.openLog == nil {
		c.openLog = openLog
	}
	if c.openSnapshots == nil {
		c.openSnapshots = openSnapshots
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	c.Founders = slices.Clone(c.Founders)
	slices.Sort(c.Founders)
	c.Founders = slices.Compact(c.Founders)
	return c, nil
}

func orDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
