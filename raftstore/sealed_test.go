package raftstore

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
)

func sealedDisk(t *testing.T, dir string, kind LogStore) (*disk, error) {
	t.Helper()
	return openDisk(dir, identity{Format: dirFormatSealed, Log: kind}, slog.New(slog.DiscardHandler))
}

// A term, a vote, and what is around an entry's data have checksums: a bit that is flipped in
// any of them is named, and the store does not start.
func TestSealedFiles(t *testing.T) {
	const marker = "marker-of-the-vote"
	for name, step := range map[string]struct {
		from, to string
		want     string
	}{
		"a vote":          {marker, "Marker-of-the-vote", `"LastVoteCand" on disk is damaged`},
		"a term":          {"\x00\x00\x00\x00\x00\x00\x11\x57", "\x00\x00\x00\x00\x00\x00\x11\x56", `"CurrentTerm" on disk is damaged`},
		"a configuration": {"the members", "the Members", "log entry 2"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			d, err := sealedDisk(t, dir, LogBolt)
			if err != nil {
				t.Fatal(err)
			}
			for _, err := range []error{
				d.SetUint64([]byte(keyTerm), 0x1157), d.Set([]byte("LastVoteCand"), []byte(marker)),
				d.StoreLogs([]*raft.Log{{Index: 1, Term: 5, Type: raft.LogNoop}, {Index: 2, Term: 5, Type: raft.LogConfiguration, Data: []byte("the members")}}),
			} {
				if err != nil {
					t.Fatal(err)
				}
			}
			if term, err := d.GetUint64([]byte(keyTerm)); err != nil || term != 0x1157 {
				t.Errorf("term %d, %v", term, err)
			}
			if vote, err := d.Get([]byte("LastVoteCand")); err != nil || string(vote) != marker {
				t.Errorf("vote %q, %v", vote, err)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, boltFileName)
			b, err := os.ReadFile(path)
			if err != nil || !strings.Contains(string(b), step.from) {
				t.Fatalf("the file does not hold what is to be damaged: %v", err)
			}
			if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(b), step.from, step.to)), 0o600); err != nil {
				t.Fatal(err)
			}
			if d, err := sealedDisk(t, dir, LogBolt); err == nil || !strings.Contains(err.Error(), step.want) || !strings.Contains(err.Error(), dir) {
				t.Errorf("%v", err)
				if err == nil {
					d.Close()
				}
			}
		})
	}
}

// What can be changed of an entry changes its checksum.
func TestSealedEntry(t *testing.T) {
	make := func() *raft.Log {
		return &raft.Log{Index: 7, Term: 5, Type: raft.LogConfiguration, Data: []byte("data")}
	}
	for name, change := range map[string]func(*raft.Log){
		"index":  func(l *raft.Log) { l.Index++ },
		"term":   func(l *raft.Log) { l.Term++ },
		"type":   func(l *raft.Log) { l.Type = raft.LogNoop },
		"data":   func(l *raft.Log) { l.Data[0] ^= 1 },
		"commit": func(l *raft.Log) { l.Extensions[7] ^= 1 },
		"sum":    func(l *raft.Log) { l.Extensions[8] ^= 1 },
	} {
		l := make()
		sealEntry(l, 6)
		if err := checkSealed(l); err != nil {
			t.Fatal(err)
		}
		change(l)
		if checkSealed(l) == nil {
			t.Errorf("%s: the change is not seen", name)
		}
	}
}

// Directories of before there were checksums go on as they were.
func TestUnsealedDirectory(t *testing.T) {
	for _, is := range []identity{{Format: 1, Log: LogBolt}, {Format: 2, Log: LogWAL}} {
		dir := t.TempDir()
		for round := range uint64(2) {
			d, err := openDisk(dir, is, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			if commit, err := d.commitIndex(); err != nil || commit != round {
				t.Errorf("%s: commit index %d, %v; want %d", is.Log, commit, err, round)
			}
			d.committed.Store(round + 1)
			if err := d.StoreLogs([]*raft.Log{{Index: round + 1, Term: 1, Type: raft.LogNoop}}); err != nil {
				t.Error(err)
			}
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}
