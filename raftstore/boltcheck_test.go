package raftstore

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/hashicorp/raft-wal/metadb"
)

const storedEntries = 400

func storedEntry(i uint64) *raft.Log {
	return &raft.Log{Index: i, Term: 5, Type: raft.LogConfiguration, Data: fmt.Appendf(nil, "%0100d", i)}
}

// storedLog writes a log of several pages into dir.
func storedLog(t *testing.T, dir string, kind LogStore) {
	t.Helper()
	d, err := sealedDisk(t, dir, kind)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.SetUint64([]byte(keyTerm), 5); err != nil {
		t.Fatal(err)
	}
	d.full.Store(true) // as after a write that failed: a probe is written, and stays
	if !d.canWrite() {
		t.Fatal("the disk takes no probe")
	}
	// In several transactions: some pages are free again, and keys lie where older ones were.
	for from := uint64(1); from <= storedEntries; from += 50 {
		var logs []*raft.Log
		for i := from; i < from+50; i++ {
			logs = append(logs, storedEntry(i))
		}
		if err := d.StoreLogs(logs); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

// whole opens a log and says what it does not hold of what was stored, or why it was refused.
func whole(t *testing.T, dir string, kind LogStore) (missing string, refused error) {
	t.Helper()
	d, err := sealedDisk(t, dir, kind)
	if err != nil {
		return "", err
	}
	defer d.Close()
	if term, err := d.GetUint64([]byte(keyTerm)); err != nil || term != 5 {
		return fmt.Sprintf("term %d, %v", term, err), nil
	}
	for i := uint64(1); i <= storedEntries; i++ {
		var l raft.Log
		if err := d.GetLog(i, &l); err != nil || !bytes.Equal(l.Data, storedEntry(i).Data) {
			return fmt.Sprintf("entry %d: %q, %v", i, l.Data, err), nil
		}
	}
	return "", nil
}

// However few bytes of a tree's pages change, and wherever: bbolt does not end the process,
// as it does when it opens a file whose pages contradict each other. Either the file is refused,
// or all is there.
func TestDamagedPages(t *testing.T) {
	t.Run("boltdb", func(t *testing.T) { damagePages(t, LogBolt, boltFileName, 1500) })
	// What raft-wal writes into its pages has no checksum: only that it ends no process.
	t.Run("wal", func(t *testing.T) { damagePages(t, LogWAL, filepath.Join(walDir, metadb.FileName), 300) })
}

func damagePages(t *testing.T, kind LogStore, name string, rounds int) {
	dir := t.TempDir()
	storedLog(t, dir, kind)
	path := filepath.Join(dir, name)
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	page := os.Getpagesize()
	refusals := 0
	for range rounds {
		b := bytes.Clone(file)
		// Mostly where pages tell what is on them.
		at := random.IntN(len(b)/page)*page + random.IntN([]int{boltHeader, 256, page}[random.IntN(3)])
		var what []string
		for i := at; i < min(at+1+random.IntN(8), len(b)); i++ {
			was := b[i]
			b[i] ^= byte(1 << random.IntN(8))
			what = append(what, fmt.Sprintf("%d: %02x → %02x", i, was, b[i]))
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		missing, err := func() (missing string, err error) {
			defer func() {
				if p := recover(); p != nil {
					missing = fmt.Sprintf("panic: %v", p)
				}
			}()
			return whole(t, dir, kind)
		}()
		if missing != "" && (kind == LogBolt || strings.HasPrefix(missing, "panic")) {
			t.Fatalf("bytes %s: %s", strings.Join(what, ", "), missing)
		}
		if err != nil {
			refusals++
			if !strings.Contains(err.Error(), dir) {
				t.Errorf("bytes %s: the error does not say where: %v", strings.Join(what, ", "), err)
			}
		}
	}
	t.Logf("%d refused, the others were in free pages or between elements", refusals)
}

// Each page alone is whole, but they contradict each other.
func TestPagesThatContradict(t *testing.T) {
	dir := t.TempDir()
	storedLog(t, dir, LogBolt)
	file, err := os.ReadFile(filepath.Join(dir, boltFileName))
	if err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize()
	find := func(kind uint16) int {
		t.Helper()
		b := &boltFile{file: bytes.NewReader(file), seen: make(map[uint64]bool)}
		if err := b.check(logBuckets); err != nil {
			t.Fatal(err)
		}
		for at := 2 * page; at < len(file); at += page {
			if b.seen[uint64(at/page)] && binary.LittleEndian.Uint16(file[at+8:]) == kind && binary.LittleEndian.Uint16(file[at+10:]) > 2 {
				return at
			}
		}
		t.Fatalf("no page of kind %d", kind)
		return 0
	}
	branch, leaf := find(boltBranch), find(boltLeaf)
	key := func(b []byte, at, i int) []byte {
		e := at + boltHeader + i*boltElement
		from := e + int(binary.LittleEndian.Uint32(b[e:]))
		return b[from : from+8]
	}
	root := func(b []byte) int { // of the buckets, as the newer header says
		newer := max(binary.LittleEndian.Uint64(b[boltHeader+48:]), binary.LittleEndian.Uint64(b[page+boltHeader+48:]))
		head := b[int(newer%2)*page+boltHeader:]
		return int(binary.LittleEndian.Uint64(head[16:])) * page
	}
	for name, step := range map[string]struct {
		change func([]byte)
		want   string
	}{
		"a branch's key beyond the page's":       {func(b []byte) { key(b, branch, 1)[7]++ }, "out of order"},
		"a branch's key below the page before's": {func(b []byte) { key(b, branch, 1)[7]-- }, "out of order"},
		"a branch's last key beyond all":         {func(b []byte) { key(b, branch, int(binary.LittleEndian.Uint16(b[branch+10:]))-1)[0] = 0x73 }, "out of order"},
		"a leaf that forgets its last entries":   {func(b []byte) { b[leaf+10]-- }, "does not follow"},
		"a leaf that forgets all of its entries": {func(b []byte) { binary.LittleEndian.PutUint16(b[leaf+10:], 0) }, "is not empty"},
		"a root that forgets its buckets":        {func(b []byte) { binary.LittleEndian.PutUint16(b[root(b)+10:], 0) }, "is not empty"},
		"a branch without elements":              {func(b []byte) { binary.LittleEndian.PutUint16(b[branch+10:], 0) }, "without elements"},
		"a term under another name": {func(b []byte) {
			for i := bytes.Index(b, []byte(keyTerm)); i >= 0; i = bytes.Index(b, []byte(keyTerm)) {
				b[i]++
			}
		}, `"DurrentTerm"`},
		"a page over another": {func(b []byte) { binary.LittleEndian.PutUint32(b[leaf+12:], 1) }, "another's"},
		"a bucket of another name": {func(b []byte) {
			for i := bytes.Index(b, []byte("logs")); i >= 0; i = bytes.Index(b, []byte("logs")) {
				copy(b[i:], "logz")
			}
		}, `bucket "logz"`},
	} {
		dir := t.TempDir()
		b := bytes.Clone(file)
		step.change(b)
		if err := os.WriteFile(filepath.Join(dir, boltFileName), b, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := whole(t, dir, LogBolt)
		if err == nil || !strings.Contains(err.Error(), step.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
