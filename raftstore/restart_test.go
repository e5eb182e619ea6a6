package raftstore_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kontiki/raftstore"
	"kontiki/raftstore/raftstoretest"
)

// eachLog runs a test with each log store.
func eachLog(t *testing.T, test func(*testing.T, func(*raftstore.Config))) {
	for _, kind := range []raftstore.LogStore{raftstore.LogBolt, raftstore.LogWAL} {
		t.Run(string(kind), func(t *testing.T) { test(t, func(cfg *raftstore.Config) { cfg.Log = kind }) })
	}
}

// A rebooted node that reaches nobody stands where it stood: its commit index is
// on disk, either with the last entries or as a marker.
func TestOfflineStartShowsWhatWasCommitted(t *testing.T) {
	t.Parallel()
	eachLog(t, offlineStart)
}

func offlineStart(t *testing.T, log func(*raftstore.Config)) {
	c := raftstoretest.NewCluster(t, 3, log)
	var last raftstore.TxnResult
	for i := range 20 {
		last = mustApply(t, c.Stores[i%3], put(fmt.Sprintf("k%d", i), "v"))
	}
	for _, s := range c.Stores {
		if _, err := s.WaitRevision(bounded(t), last.Revision); err != nil {
			t.Fatal(err)
		}
	}
	for i := range c.Stores {
		c.Stop(i)
	}
	s := c.Start(1)
	if v := s.View(); v.Revision() != last.Revision || v.Count("k") != 20 {
		t.Fatalf("alone, node 1 shows revision %d with %d keys; it was at %d", v.Revision(), v.Count("k"), last.Revision)
	}
	w, err := s.Watch("k", 0)
	if err != nil {
		t.Fatalf("history is in the log: %v", err)
	}
	if events, _, err := w.Next(bounded(t)); err != nil || len(events) != 20 {
		t.Fatalf("%d events, error %v", len(events), err)
	}
	w.Close()
	c.Start(2)
	mustApply(t, s, put("more", "v"))
}

// A log with a snapshot in its middle, taken while writers go on.
func TestRestartAfterSnapshotUnderWrites(t *testing.T) {
	t.Parallel()
	eachLog(t, restartAfterSnapshot)
}

func restartAfterSnapshot(t *testing.T, log func(*raftstore.Config)) {
	c := raftstoretest.NewCluster(t, 1, log)
	s := c.Stores[0]
	const writers, each = 64, 20
	done := make(chan error, writers)
	for w := range writers {
		go func() {
			for i := range each {
				if _, err := s.Apply(bounded(t), put(fmt.Sprintf("k%d-%d", w, i), "v")); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
		if w == writers/2 {
			if err := s.Snapshot(); err != nil {
				t.Log("snapshot:", err)
			}
		}
	}
	for range writers {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	c.Stop(0)
	s = c.Start(0)
	if got := s.View().Count("k"); got != writers*each {
		t.Fatalf("%d keys after a restart, %d were written", got, writers*each)
	}
	mustApply(t, s, put("more", "v"))
}

func TestLaggingFollowerCatchesUpBySnapshot(t *testing.T) {
	t.Parallel()
	eachLog(t, laggingFollower)
}

func laggingFollower(t *testing.T, log func(*raftstore.Config)) {
	c := raftstoretest.NewCluster(t, 3, log, func(cfg *raftstore.Config) { cfg.TrailingLogs = 1 })
	leader := c.Leader()
	lagging := (leader + 1) % 3
	mustApply(t, c.Stores[lagging], put("before", "v"))
	w, err := c.Stores[lagging].Watch("", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	c.Isolate(lagging)
	var last raftstore.TxnResult
	for i := range 50 {
		last = mustApply(t, c.Stores[leader], put(fmt.Sprintf("k%d", i), "v"))
	}
	for i, s := range c.Stores {
		if i != lagging {
			c.Eventually("a snapshot that truncates the log", func() bool {
				if err := s.Snapshot(); err != nil {
					t.Log("snapshot:", err)
				}
				first, err := s.FirstLogIndex()
				return err == nil && first > 40
			})
		}
	}
	c.Rejoin(lagging)
	v, err := c.Stores[lagging].WaitRevision(bounded(t), last.Revision)
	if err != nil || v.Count("k") != 50 {
		t.Fatalf("%d keys, error %v", v.Count("k"), err)
	}
	if reach := c.Stores[lagging].Compacted(); reach != last.Revision {
		t.Errorf("the snapshot was of revision %d, history claims to reach back to %d", last.Revision, reach)
	}
	// The watch fell off: it says so instead of skipping what it has not seen.
	for {
		_, through, err := w.Next(bounded(t))
		if errors.Is(err, raftstore.ErrCompacted) {
			break
		}
		if err != nil || through >= last.Revision {
			t.Fatalf("the watch went through %d, error %v", through, err)
		}
	}
	// It is a full member: its retried sessions and new writes work.
	mustApply(t, c.Stores[lagging], put("after", "v"))
	c.Stop(lagging)
	s := c.Start(lagging)
	if got := s.View().Count("k"); got != 50 {
		t.Fatalf("%d keys after a restart from the installed snapshot", got)
	}
}

func TestForeignDirectoryIsRefused(t *testing.T) {
	t.Parallel()
	eachLog(t, foreignDirectory)
}

func foreignDirectory(t *testing.T, log func(*raftstore.Config)) {
	c := raftstoretest.NewCluster(t, 1, log)
	if _, err := raftstore.Open(c.Config(0)); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("a directory in use: %v", err)
	}
	c.Stop(0)
	for _, step := range []struct {
		want   string
		change func(*raftstore.Config)
	}{
		{"belongs to node node-0, this is node other", func(cfg *raftstore.Config) { cfg.NodeID = "other" }},
		{"belongs to cluster test, this node is of cluster other", func(cfg *raftstore.Config) { cfg.ClusterID = "other" }},
		{"keeps its log in", func(cfg *raftstore.Config) {
			cfg.Log = map[raftstore.LogStore]raftstore.LogStore{raftstore.LogBolt: raftstore.LogWAL, raftstore.LogWAL: raftstore.LogBolt}[cfg.Log]
		}},
		{"has format 99", func(cfg *raftstore.Config) {
			if err := os.WriteFile(filepath.Join(cfg.Dir, "identity.json"), []byte(`{"format":99}`), 0o600); err != nil {
				t.Fatal(err)
			}
		}},
		{"says whose it is", func(cfg *raftstore.Config) {
			if err := os.Remove(filepath.Join(cfg.Dir, "identity.json")); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		cfg := c.Config(0)
		step.change(&cfg)
		if _, err := raftstore.Open(cfg); err == nil || !strings.Contains(err.Error(), step.want) || !strings.Contains(err.Error(), cfg.Dir) {
			t.Errorf("expected %q and %q in: %v", step.want, cfg.Dir, err)
		}
	}
}

// A command of a version that this program does not know halts the replica, now
// and at every start, and says why.
func TestNewerCommandHalts(t *testing.T) {
	t.Parallel()
	c := raftstoretest.NewCluster(t, 1)
	s := c.Stores[0]
	mustApply(t, s, put("k", "v"))
	_ = s.ProposeRaw(raftstore.FutureEntry())
	c.Eventually("the replica to halt", func() bool { return s.Status().Err != nil })
	if _, err := s.Apply(bounded(t), put("k", "w")); !errors.Is(err, raftstore.ErrHalted) {
		t.Errorf("write after the halt: %v", err)
	}
	if kv, _ := s.View().Get("k"); string(kv.Value) != "v" {
		t.Errorf("local reads go on: %q", kv.Value)
	}
	c.Stop(0)
	s, err := raftstore.Open(c.Config(0))
	if err == nil {
		// The entry was not known to be committed yet: Raft commits it again.
		c.Stores[0] = s
		c.Eventually("the replica to halt again", func() bool { return s.Status().Err != nil })
	} else if !strings.Contains(err.Error(), "newer version") {
		t.Errorf("start with an unknown command: %v", err)
	}
}

func TestKeysExpire(t *testing.T) {
	t.Parallel()
	c := raftstoretest.NewCluster(t, 3)
	s := c.Stores[(c.Leader()+1)%3]
	w, err := s.Watch("lease/", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	mustApply(t, s, raftstore.Txn{Ops: []raftstore.Op{
		{Kind: raftstore.OpPut, Key: "lease/short", TTL: time.Second},
		{Kind: raftstore.OpPut, Key: "lease/renewed", TTL: time.Second},
		{Kind: raftstore.OpPut, Key: "lease/long", TTL: time.Hour},
	}})
	mustApply(t, s, put("lease/renewed", "for ever"))
	for {
		events, _, err := w.Next(bounded(t))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			if e.Deleted && e.KV.Key != "lease/short" {
				t.Fatalf("%s has expired", e.KV.Key)
			}
			if e.Deleted {
				return
			}
		}
	}
}

// History is compacted by age while there are writes and once after they have
// stopped; then nothing is written any more.
func TestIdleIsSilent(t *testing.T) {
	t.Parallel()
	s := raftstoretest.New(t, func(cfg *raftstore.Config) { cfg.EventAge = 200 * time.Millisecond })
	for i := range 50 {
		mustApply(t, s, put(fmt.Sprintf("k%d", i%7), "v"))
	}
	raftstoretest.Eventually(t, "compaction to the last revision", func() bool { return s.Compacted() == 51 })
	var before int64
	marked := false
	raftstoretest.Eventually(t, "the last write", func() bool {
		wasMarked := marked
		marked = s.CommitMarked()
		now := s.DiskWrites()
		still := now == before
		before = now
		return wasMarked && still
	})
	log := s.Status().LastIndex
	// Several times the age of events and the silence before the marker.
	raftstoretest.Eventually(t, "time to pass", after(3*time.Second))
	if now := s.DiskWrites(); now != before || s.Status().LastIndex != log {
		t.Errorf("an idle store wrote to disk: %d more writes, log from %d to %d", now-before, log, s.Status().LastIndex)
	}
}

func after(d time.Duration) func() bool {
	until := time.Now().Add(d)
	return func() bool { return time.Now().After(until) }
}
