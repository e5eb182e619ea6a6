package raftstore_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kontiki/raftstore"
	"kontiki/raftstore/raftstoretest"
)

// begun makes a directory of a new epoch out of that of a stopped node, and returns the
// configuration of a store on it.
func begun(t *testing.T, c *raftstoretest.Cluster, node int) (raftstore.Config, raftstore.Holding) {
	t.Helper()
	cfg := c.Config(node)
	h, err := raftstore.Examine(cfg.Dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	cfg.Epoch, cfg.Founders = h.Epoch.Next(), nil
	cfg.Dir = filepath.Join(t.TempDir(), "raft-"+string(cfg.Epoch))
	err = h.Begin(cfg.Dir, raftstore.Beginning{
		NodeID: cfg.NodeID, ClusterID: cfg.ClusterID, Epoch: cfg.Epoch, Log: h.Log,
		Revision: raftstore.LiftedRevision(h.View().Revision(), time.Now()), Index: h.LogIndex, Term: h.LogTerm,
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return cfg, h
}

func open(t *testing.T, cfg raftstore.Config) *raftstore.Store {
	t.Helper()
	s, err := raftstore.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// One survivor of three begins a new epoch: it holds all that it held, also what it does
// not know to be committed; nothing of before can be watched; blank nodes join; members
// of the old epoch are refused at both ends, and join once they are empty.
func TestRecovery(t *testing.T) {
	for _, log := range []raftstore.LogStore{raftstore.LogBolt, raftstore.LogWAL} {
		t.Run(string(log), func(t *testing.T) {
			c := raftstoretest.NewCluster(t, 3, func(cfg *raftstore.Config) { cfg.Log = log })
			fill(t, c.Stores[0], 20)
			settled(t, c, c.Stores[0])
			before := c.Stores[2].View().Revision()
			for i := range c.Stores {
				c.Stop(i)
			}
			cfg, h := begun(t, c, 2)
			if h.NodeID != cfg.NodeID || h.ClusterID != "test" || h.Epoch != "" || h.Log != log || len(h.Members) != 3 || h.LogIndex < h.Committed || h.LogTerm == 0 {
				t.Errorf("%+v", h)
			}
			refused := make(chan error, 64)
			note := func(_ string, why error) {
				select {
				case refused <- why:
				default:
				}
			}
			cfg.Refused = note
			s := open(t, cfg)
			holds(t, s, 20)
			shown := s.View().Revision()
			if shown < before+1<<32 {
				t.Errorf("revision %d follows %d", shown, before)
			}
			if _, err := s.ViewAt(bounded(t), before); !errors.Is(err, raftstore.ErrCompacted) {
				t.Errorf("the state at %d: %v", before, err)
			}
			for _, after := range []uint64{1, before, before + 1000} {
				if _, err := s.Watch("k", after); !errors.Is(err, raftstore.ErrCompacted) {
					t.Errorf("a watch after %d: %v", after, err)
				}
			}
			if r := mustApply(t, s, put("new", "epoch")); r.Revision != shown+1 {
				t.Errorf("revision %d follows %d", r.Revision, shown)
			}

			// A member of the old epoch that was not told of the new one.
			old := c.Config(0)
			var told error
			old.Refused = func(_ string, why error) { told = why }
			stale, err := raftstore.Open(old)
			if err != nil {
				t.Fatal(err)
			}
			select {
			case why := <-refused:
				if !errors.Is(why, raftstore.ErrEpoch) || !strings.Contains(why.Error(), "left behind") {
					t.Error(why)
				}
			case <-time.After(raftstoretest.Patience):
				t.Error("the old member was not refused")
			}
			if err := stale.Close(); err != nil {
				t.Error(err)
			}
			if !errors.Is(told, raftstore.ErrEpoch) || !strings.Contains(told.Error(), "Stop this node") {
				t.Errorf("the old member was told %v", told)
			}

			// Emptied, under its old id.
			empty := c.Config(0)
			empty.Epoch, empty.Founders, empty.Dir = cfg.Epoch, nil, filepath.Join(t.TempDir(), "raft")
			joined := open(t, empty)
			if err := s.AddNonvoter(bounded(t), empty.NodeID); err != nil {
				t.Fatal(err)
			}
			if err := s.Promote(bounded(t), empty.NodeID); err != nil {
				t.Fatal(err)
			}
			r := mustApply(t, joined, put("from", "it"))
			if _, err := joined.WaitRevision(bounded(t), r.Revision); err != nil {
				t.Fatal(err)
			}
			holds(t, joined, 20)
		})
	}
}

// What a survivor has in its log counts, whether or not it knows that it was committed.
func TestExamineReadsToTheEndOfTheLog(t *testing.T) {
	c := raftstoretest.NewCluster(t, 3)
	leader := c.Leader()
	fill(t, c.Stores[leader], 5)
	settled(t, c, c.Stores[leader])
	c.Stop((leader + 1) % 3)
	c.Stop((leader + 2) % 3)
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	c.Stores[leader].Apply(ctx, put("late", "v")) // it gets into this log, and no further
	c.Stop(leader)
	_, h := begun(t, c, leader)
	if kv, ok := h.View().Get("late"); !ok || string(kv.Value) != "v" || h.LogIndex <= h.Committed {
		t.Errorf("the survivor shows %q; log to %d, committed to %d", kv.Value, h.LogIndex, h.Committed)
	}
}

// A crash in the middle leaves nothing that another try stumbles over, and nothing that is taken
// for a whole directory.
func TestBeginIsAllOrNothing(t *testing.T) {
	c := raftstoretest.NewCluster(t, 1)
	fill(t, c.Stores[0], 5)
	c.Stop(0)
	log := slog.New(slog.DiscardHandler)
	h, err := raftstore.Examine(c.Config(0).Dir, log)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "raft-new")
	b := raftstore.Beginning{NodeID: "n", ClusterID: "test", Epoch: raftstore.Epoch("").Next(), Revision: raftstore.LiftedRevision(h.View().Revision(), time.Now()), Index: h.LogIndex, Term: h.LogTerm}
	if err := os.MkdirAll(filepath.Join(dir+".part", "snapshots", "1-2-3.tmp"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := h.Begin(dir, b, log); err != nil {
		t.Fatal(err)
	}
	if err := h.Begin(dir, b, log); err == nil {
		t.Error("a directory was written twice")
	}
	again, err := raftstore.Examine(dir, log)
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(again.Members) != "[{n true}]" || again.Epoch != b.Epoch || again.View().Count("") != 5 || again.View().Revision() != b.Revision {
		t.Errorf("%+v", again)
	}
	if _, err := os.Stat(dir + ".part"); !os.IsNotExist(err) {
		t.Errorf("what was in the making is left: %v", err)
	}
	b.Revision = 3
	if err := h.Begin(dir+"-2", b, log); err == nil {
		t.Error("an epoch began at a revision of the one before")
	}
}

func TestExamineRefusesDamage(t *testing.T) {
	c := raftstoretest.NewCluster(t, 1)
	fill(t, c.Stores[0], 10)
	c.Stop(0)
	cfg := damaged(t, c, "raft.db", func(b []byte) []byte { return []byte(strings.ReplaceAll(string(b), "value 7", "VALUE 7")) })
	if _, err := raftstore.Examine(cfg.Dir, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Error(err)
	}
}
