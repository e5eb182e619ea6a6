package raftstore_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kontiki/raftstore"
	"kontiki/raftstore/raftstoretest"
)

// damaged returns the configuration of node 0 with a copy of its directory, in
// which one file was changed.
func damaged(t *testing.T, c *raftstoretest.Cluster, file string, change func([]byte) []byte) raftstore.Config {
	t.Helper()
	cfg := c.Config(0)
	dir := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(dir, os.DirFS(cfg.Dir)); err != nil {
		t.Fatal(err)
	}
	cfg.Dir = dir
	path := filepath.Join(dir, file)
	b, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, change(b), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// Whatever bytes of the log's file are damaged: the store says so and does not
// start, or it shows all that was acknowledged.
func TestDamagedLog(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	c := raftstoretest.NewCluster(t, 1)
	const keys = 60
	for i := range keys {
		mustApply(t, c.Stores[0], put(fmt.Sprintf("k%d", i), fmt.Sprintf("%0200d", i)))
	}
	c.Stop(0)
	refused := 0
	const rounds = 60
	for range rounds {
		what := ""
		cfg := damaged(t, c, "raft.db", func(b []byte) []byte {
			from, n := random.IntN(len(b)), 1+random.IntN(64)
			what = fmt.Sprintf("%d bytes at %d of %d", n, from, len(b))
			for i := from; i < min(from+n, len(b)); i++ {
				b[i] ^= byte(1 + random.IntN(255))
			}
			return b
		})
		s, err := raftstore.Open(cfg)
		if err != nil {
			refused++
			if !strings.Contains(err.Error(), cfg.Dir) {
				t.Errorf("%s: the error does not say where: %v", what, err)
			}
			continue
		}
		v := s.View()
		for i := range keys {
			if kv, _ := v.Get(fmt.Sprintf("k%d", i)); string(kv.Value) != fmt.Sprintf("%0200d", i) {
				t.Fatalf("%s: key %d holds %q", what, i, kv.Value)
			}
		}
		if err := s.Close(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	t.Logf("%d of %d damages refused, the others were in free pages", refused, rounds)
}

func TestDamagedLogIsNamed(t *testing.T) {
	c := raftstoretest.NewCluster(t, 1)
	for i := range 20 {
		mustApply(t, c.Stores[0], put(fmt.Sprintf("k%d", i), "the value"))
	}
	c.Stop(0)
	for name, step := range map[string]struct {
		change func([]byte) []byte
		want   string
	}{
		"an entry": {func(b []byte) []byte {
			return []byte(strings.ReplaceAll(string(b), "the value", "the VALUE")) // in free pages, too
		}, "log entry"},
		"cut short": {func(b []byte) []byte { return b[:3*os.Getpagesize()] }, "is damaged"},
		"a header":  {func(b []byte) []byte { b[os.Getpagesize()+40]++; return b }, "header 1"},
		"no log":    {func(b []byte) []byte { return []byte(strings.Repeat("x", len(b))) }, "is damaged"},
	} {
		cfg := damaged(t, c, "raft.db", step.change)
		_, err := raftstore.Open(cfg)
		if err == nil || !strings.Contains(err.Error(), step.want) || !strings.Contains(err.Error(), filepath.Join(cfg.Dir, "raft.db")) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The log in segment files takes a damaged frame for its end. What was committed beyond
// it is not passed over in silence.
func TestDamagedTailOfTheWAL(t *testing.T) {
	t.Parallel()
	c := raftstoretest.NewCluster(t, 1, func(cfg *raftstore.Config) { cfg.Log = raftstore.LogWAL })
	for i := range 20 {
		mustApply(t, c.Stores[0], put(fmt.Sprintf("k%d", i), "the value"))
	}
	c.Stop(0) // which writes the commit index
	segments, err := filepath.Glob(filepath.Join(c.Config(0).Dir, "raft-wal", "*.wal"))
	if err != nil || len(segments) != 1 {
		t.Fatalf("segments: %v, %v", segments, err)
	}
	cfg := damaged(t, c, filepath.Join("raft-wal", filepath.Base(segments[0])), func(b []byte) []byte {
		// Frames begin on 8 bytes: kind, three zeros, length. The last but one of the entries.
		last := bytes.LastIndex(b, []byte("the value"))
		entry := bytes.LastIndex(b[:last], []byte("the value"))
		for at := entry &^ 7; ; at -= 8 {
			if length := binary.LittleEndian.Uint32(b[at+4:]); b[at] == 1 && b[at+1]|b[at+2]|b[at+3] == 0 && at+8+int(length) >= entry {
				b[at] = 0
				return b
			}
		}
	})
	s, err := raftstore.Open(cfg)
	if err == nil {
		t.Errorf("the store starts with %d keys", s.View().Count(""))
		s.Close()
	} else if !strings.Contains(err.Error(), "is damaged") || !strings.Contains(err.Error(), cfg.Dir) {
		t.Error(err)
	}
}

// A damaged snapshot is named; the one before it and the log are used if they reach.
func TestDamagedSnapshot(t *testing.T) {
	t.Parallel()
	c := raftstoretest.NewCluster(t, 1, func(cfg *raftstore.Config) { cfg.TrailingLogs = 1 })
	snapshot := func(from, to int) string {
		for i := from; i < to; i++ {
			mustApply(t, c.Stores[0], put(fmt.Sprintf("k%d", i), "the value"))
		}
		if err := c.Stores[0].Snapshot(); err != nil {
			t.Fatal(err)
		}
		states, err := filepath.Glob(filepath.Join(c.Config(0).Dir, "snapshots", "*", "state.bin"))
		if err != nil || len(states) == 0 {
			t.Fatalf("snapshots: %v, %v", states, err)
		}
		return filepath.Join("snapshots", filepath.Base(filepath.Dir(states[len(states)-1])))
	}
	newest := snapshot(0, 10)
	c.Stop(0)
	for name, step := range map[string]struct {
		file   string
		change func([]byte) []byte
	}{
		"truncated":       {"state.bin", func(b []byte) []byte { return b[:40] }},
		"changed":         {"state.bin", func(b []byte) []byte { b[len(b)/2] ^= 1; return b }},
		"empty":           {"state.bin", func([]byte) []byte { return nil }},
		"its description": {"meta.json", func(b []byte) []byte { return b[:len(b)/2] }},
	} {
		cfg := damaged(t, c, filepath.Join(newest, step.file), step.change)
		s, err := raftstore.Open(cfg)
		if err == nil {
			t.Errorf("%s: the store starts with %d keys", name, s.View().Count(""))
			s.Close()
		} else if !strings.Contains(err.Error(), filepath.Base(newest)) && !strings.Contains(err.Error(), cfg.Dir) {
			t.Errorf("%s: the error does not say where: %v", name, err)
		}
	}
}
