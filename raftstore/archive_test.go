package raftstore

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

func archiveOf(t *testing.T, st *state) []byte {
	t.Helper()
	var b bytes.Buffer
	info := ArchiveInfo{ClusterID: "c", Epoch: "2-0123456789abc", NodeID: "n", Taken: time.Unix(1, 0).UTC(), KeyID: "k"}
	if _, err := writeArchive(&b, st, info); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestArchive(t *testing.T) {
	st := filled(t)
	a, err := ReadArchive(bytes.NewReader(archiveOf(t, st)))
	if err != nil {
		t.Fatal(err)
	}
	if a.ClusterID != "c" || a.Epoch.Number() != 2 || a.KeyID != "k" || a.Revision != st.revision || a.Keys != 2 {
		t.Errorf("%+v", a.ArchiveInfo)
	}
	if a.state.digest() != st.digest() {
		t.Error("what was read is not what was written")
	}
}

// An archive that is not whole is refused, wherever it was cut and whichever bit was
// flipped; so is what is none, and what a newer program wrote.
func TestDamagedArchive(t *testing.T) {
	whole := archiveOf(t, filled(t))
	for n := range len(whole) {
		if _, err := ReadArchive(bytes.NewReader(whole[:n])); !errors.Is(err, ErrArchiveDamaged) && !(n < len(archiveMagic) && errors.Is(err, ErrNoArchive)) {
			t.Fatalf("cut at %d of %d: %v", n, len(whole), err)
		}
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for i := range whole {
		flipped := bytes.Clone(whole)
		flipped[i] ^= 1 << random.IntN(8)
		if _, err := ReadArchive(bytes.NewReader(flipped)); !errors.Is(err, ErrArchiveDamaged) && !(i < len(archiveMagic) && errors.Is(err, ErrNoArchive)) {
			t.Fatalf("a bit of byte %d of %d: %v", i, len(whole), err)
		}
	}
	if _, err := ReadArchive(bytes.NewReader(append(bytes.Clone(whole), 0))); !errors.Is(err, ErrArchiveDamaged) {
		t.Errorf("a byte more: %v", err)
	}
	if _, err := ReadArchive(strings.NewReader(strings.Repeat("no archive ", 20))); !errors.Is(err, ErrNoArchive) {
		t.Errorf("something else: %v", err)
	}
}

func TestArchiveOfANewerProgram(t *testing.T) {
	whole := archiveOf(t, filled(t))
	description := bytes.Replace(whole[len(archiveMagic)+4:], []byte(`"format":1`), []byte(`"format":9`), 1)
	end := bytes.IndexByte(description, '}') + 1
	newer := append([]byte(archiveMagic), frame(description[:end])...)
	newer = append(newer, checksumOf(description[:end])...)
	if _, err := ReadArchive(bytes.NewReader(newer)); !errors.Is(err, ErrArchiveFormat) || !strings.Contains(err.Error(), "format 9") {
		t.Error(err)
	}
}

// What lies damaged in memory does not get into an archive.
func TestArchiveOfDamagedMemory(t *testing.T) {
	st := *filled(t)
	was, _ := st.keys.Get([]byte("a"))
	is := *was
	is.Value = []byte("x")
	st.keys, _, _ = st.keys.Insert([]byte("a"), &is)
	if _, err := writeArchive(&bytes.Buffer{}, &st, ArchiveInfo{}); !errors.Is(err, errContents) {
		t.Error(err)
	}
}

func FuzzReadArchive(f *testing.F) {
	f.Add([]byte(archiveMagic))
	f.Add([]byte(archiveMagic + "\x00\x00\x00\x02{}"))
	f.Fuzz(func(_ *testing.T, b []byte) { ReadArchive(bytes.NewReader(b)) })
}

func TestEpochs(t *testing.T) {
	first := Epoch("")
	second, again := first.Next(), first.Next()
	third := second.Next()
	if first.Number() != 1 || second.Number() != 2 || third.Number() != 3 || second == again {
		t.Errorf("%q, %q or %q, %q", first, second, again, third)
	}
	now := time.Now()
	restored := second.NextAt(now)
	if restored.Number() <= third.Number() || restored.NextAt(now).Number() <= restored.Number() || second.NextAt(time.Unix(0, 0)).Number() != 3 {
		t.Errorf("%q comes after %q", restored, third)
	}
	for _, e := range []Epoch{first, second, third, restored} {
		if err := e.Valid(); err != nil {
			t.Error(err)
		}
	}
	for _, e := range []Epoch{"1", "2", "x-0123456789abc", "2-", "1-0123456789abc", "2-0123456789ab/", "2-0123456789abcd"} {
		if e.Valid() == nil {
			t.Errorf("%q is taken for an epoch", string(e))
		}
	}
	for name, c := range map[string]struct {
		own, other Epoch
		want       string
	}{
		"left behind": {third, first, "run kontiki reset --membership there"},
		"stale":       {first, third, "Stop this node, run kontiki reset --membership"},
		"twice":       {second, again, "recovered or restored twice"},
	} {
		err := EpochsDiffer("n", c.own, c.other)
		if !errors.Is(err, ErrEpoch) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.other.String()) || strings.Contains(err.Error(), "%!") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLiftedRevision(t *testing.T) {
	year := time.Unix(1<<31, 0)
	for name, c := range map[string]struct {
		held uint64
		now  time.Time
	}{"usual": {5000, year}, "no clock": {5000, time.Unix(0, 0)}, "twice": {LiftedRevision(5000, year), year}} {
		if got := LiftedRevision(c.held, c.now); got < c.held+liftLeast || got >= 1<<53 {
			t.Errorf("%s: %d follows %d", name, got, c.held)
		}
	}
	// An old snapshot, after a cluster has written as fast as it can since its recovery.
	recovered := LiftedRevision(5000, year)
	if later := LiftedRevision(5000, year.Add(time.Hour)); later <= recovered+3600*100_000 {
		t.Errorf("%d does not lie beyond what was shown after %d", later, recovered)
	}
}
