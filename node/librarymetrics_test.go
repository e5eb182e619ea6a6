package node

import (
	"io"
	"strings"
	"testing"
	"time"

	gometrics "github.com/hashicorp/go-metrics"
	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/raft"

	"kontiki/internal/meter/metertest"
)

// TestLibrariesTell has the real libraries count: a key that one of them renames would be missed.
func TestLibrariesTell(t *testing.T) {
	s := newLibrarySink()
	if err := tellLibraries(s); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tellLibraries(&gometrics.BlackholeSink{}); err != nil {
			t.Error(err)
		}
	})
	raftAlone(t)
	twoMembers(t)
	got := metertest.Read(t, &libraries, s)
	for _, name := range []string{
		`raft_proposed_total{what="commands"}`, `raft_proposed_total{what="barrier"}`, `raft_state_changes_total{state="leader"}`,
		"raft_commit_duration_seconds", "raft_leader_dispatch_duration_seconds", `raft_fsm_duration_seconds{operation="apply"}`,
		`raft_fsm_duration_seconds{operation="enqueue"}`, `raft_snapshot_duration_seconds{step="takeSnapshot"}`,
		`memberlist_messages_total{message="alive"}`, `memberlist_streams_total{direction="opened"}`, `memberlist_streams_total{direction="accepted"}`,
		`memberlist_duration_seconds{operation="pushPullNode"}`, "memberlist_remote_state_bytes",
		`memberlist_sent_bytes_total{protocol="udp"}`, `memberlist_sent_bytes_total{protocol="tcp"}`,
	} {
		if got[name] == 0 {
			t.Errorf("%s is missing among %v", name, got)
		}
	}
	if got[`raft_proposed_total{what="commands"}`] != 3 {
		t.Errorf("%v commands, want 3", got[`raft_proposed_total{what="commands"}`])
	}
}

// TestLibrariesNameNoMember: what is told does not grow with members that come and go.
func TestLibrariesNameNoMember(t *testing.T) {
	s := newLibrarySink()
	m, err := gometrics.New(&gometrics.Config{TimerGranularity: time.Millisecond, FilterDefault: true}, s)
	if err != nil {
		t.Fatal(err)
	}
	before := len(metertest.Read(t, &libraries, s))
	for _, member := range []string{"a", "b", "c"} {
		peer := []gometrics.Label{{Name: "peer_id", Value: member}}
		m.AddSampleWithLabels([]string{"raft", "replication", "heartbeat"}, 2, peer)
		m.AddSample([]string{"raft", "replication", "heartbeat", member}, 2)
		m.IncrCounterWithLabels([]string{"raft", "replication", "appendEntries", "logs"}, 5, peer)
		m.IncrCounter([]string{"raft", "replication", "appendEntries", "logs", member}, 5)
		m.SetGauge([]string{"raft", member}, 1)
	}
	m.AddSample([]string{"raft", "thread", "main", "saturation"}, 0.5)
	got := metertest.Read(t, &libraries, s)
	if len(got) != before+1 || got[`raft_thread_saturation{thread="main"}`] != 0.5 {
		t.Errorf("%d values before, then %v", before, got)
	}
	if got[`raft_replication_duration_seconds{rpc="heartbeat"}`] != 3 || got["raft_replicated_entries_total"] != 15 {
		t.Errorf("counted %v", got)
	}
}

type noState struct{ raft.FSMSnapshot }

func (noState) Apply(*raft.Log) any                   { return nil }
func (s noState) Snapshot() (raft.FSMSnapshot, error) { return s, nil }
func (noState) Restore(in io.ReadCloser) error        { return in.Close() }
func (noState) Persist(sink raft.SnapshotSink) error  { return sink.Close() }
func (noState) Release()                              {}

// raftAlone has one member elect itself, commit three commands, and take a snapshot.
func raftAlone(t *testing.T) {
	t.Helper()
	store, snapshots := raft.NewInmemStore(), raft.NewInmemSnapshotStore()
	addr, transport := raft.NewInmemTransport("")
	cfg := raft.DefaultConfig()
	cfg.LocalID, cfg.LogOutput = "a", io.Discard
	cfg.HeartbeatTimeout, cfg.ElectionTimeout, cfg.LeaderLeaseTimeout = 50*time.Millisecond, 50*time.Millisecond, 50*time.Millisecond
	if err := raft.BootstrapCluster(cfg, store, store, snapshots, transport, raft.Configuration{Servers: []raft.Server{{ID: "a", Address: addr}}}); err != nil {
		t.Fatal(err)
	}
	r, err := raft.NewRaft(cfg, noState{}, store, store, snapshots, transport)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-r.LeaderCh():
	case <-time.After(20 * time.Second):
		t.Fatal("it does not elect itself")
	}
	for range 3 {
		if err := r.Apply([]byte("x"), 0).Error(); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Barrier(0).Error(); err != nil {
		t.Fatal(err)
	}
	if err := r.Snapshot().Error(); err != nil && !strings.Contains(err.Error(), raft.ErrNothingNewToSnapshot.Error()) {
		t.Fatal(err)
	}
	if err := r.Shutdown().Error(); err != nil {
		t.Fatal(err)
	}
}

// twoMembers has two members meet on the loopback device, and one leave.
func twoMembers(t *testing.T) {
	t.Helper()
	member := func(name string) *memberlist.Memberlist {
		cfg := memberlist.DefaultLocalConfig()
		cfg.Name, cfg.BindAddr, cfg.BindPort, cfg.LogOutput = name, "127.0.0.1", 0, io.Discard
		cfg.SecretKey = []byte("sixteen bytes!!!") // as our ring has one
		m, err := memberlist.Create(cfg)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	a, b := member("a"), member("b")
	if _, err := b.Join([]string{a.LocalNode().Address()}); err != nil {
		t.Fatal(err)
	}
	if err := b.Leave(5 * time.Second); err != nil { // told by a datagram
		t.Fatal(err)
	}
	for _, m := range []*memberlist.Memberlist{b, a} {
		if err := m.Shutdown(); err != nil {
			t.Fatal(err)
		}
	}
}
