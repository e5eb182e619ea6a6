package node

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kontiki/pki"
	"kontiki/raftstore"
	"kontiki/raftstore/raftstoretest"
)

// member makes the data directory of a stopped node that is one of three voters and holds
// one key, and returns it with an archive of the same state and the text of its key.
func member(t *testing.T) (dir string, archive []byte, key string) {
	t.Helper()
	dir = t.TempDir()
	id, err := pki.LoadIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	trust, err := pki.NewTrust(pki.NewID(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	c := charter{ClusterID: trust.ClusterID(), Settings: DefaultSettings(), Founders: []string{id.ID}, trust: trust}
	if err := c.write(dir); err != nil {
		t.Fatal(err)
	}
	if err := trust.Write(dir); err != nil {
		t.Fatal(err)
	}
	network := raftstoretest.NewNetwork()
	s := openReplica(t, network, dir, id.ID)
	sealed, err := trust.Sealed()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), raftstoretest.Patience)
	defer cancel()
	for k, v := range map[string][]byte{"/k": []byte("v"), trustKey: sealed, settingsKey: c.Settings.encode(), namesPrefix + "old": encodeRecord(nameRecord{ID: pki.NewID()})} {
		if _, err := s.Apply(ctx, raftstore.Txn{Ops: []raftstore.Op{{Kind: raftstore.OpPut, Key: k, Value: v}}}); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if _, err := s.WriteArchive(&b, raftstore.ArchiveInfo{Taken: time.Now()}); err != nil {
		t.Fatal(err)
	}
	if err := s.AddNonvoter(ctx, pki.NewID()); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, key = trust.KeyText()
	return dir, b.Bytes(), key
}

// openReplica opens the replica that the charter in dir names.
func openReplica(t *testing.T, network *raftstoretest.Network, dir, id string) *raftstore.Store {
	t.Helper()
	c, err := loadCharter(dir)
	if err != nil {
		t.Fatal(err)
	}
	s, err := raftstore.Open(raftstore.Config{
		NodeID: id, ClusterID: c.ClusterID, Epoch: c.Epoch, Dir: raftDir(dir, c.Epoch), Founders: c.Founders,
		Raft: network.Streams(id, "raft"), Calls: network.Streams(id, "call"), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// shows opens the replica, and tells what it shows: the epoch's number, and its value of /k.
func shows(t *testing.T, dir string) (epoch uint64, value string) {
	t.Helper()
	id, err := pki.LoadIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	s := openReplica(t, raftstoretest.NewNetwork(), dir, id.ID)
	kv, _ := s.View().Get("/k")
	epoch, value = s.Status().Epoch.Number(), string(kv.Value)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return epoch, value
}

var (
	quiet      = slog.New(slog.DiscardHandler)
	errNotNow  = errors.New("not now")
	takeItSo   = func(RecoveryPlan) error { return nil }
	doNotTake  = func(RecoveryPlan) error { return errNotNow }
	resetItSo  = func(string, raftstore.Epoch) error { return nil }
	doNotReset = func(string, raftstore.Epoch) error { return errNotNow }
)

// A recovery that was not confirmed, or that ended at any point, leaves the node in the old
// epoch or in the new one; another run goes through, and leaves nothing half made.
func TestRecoverAtEveryCrash(t *testing.T) {
	for name, crash := range map[string]func(t *testing.T, dir string){
		"not confirmed": func(t *testing.T, dir string) {
			if _, err := Recover(dir, quiet, time.Now, doNotTake); !errors.Is(err, errNotNow) {
				t.Fatal(err)
			}
		},
		"in the middle of the new replica": func(t *testing.T, dir string) {
			if err := os.MkdirAll(filepath.Join(dir, "raft-2-0123456789abc.part", "snapshots"), 0o700); err != nil {
				t.Fatal(err)
			}
		},
		"before the charter": func(t *testing.T, dir string) { recoverUpToCharter(t, dir) },
	} {
		t.Run(name, func(t *testing.T) {
			dir, _, _ := member(t)
			crash(t, dir)
			if epoch, value := shows(t, dir); epoch != 1 || value != "v" {
				t.Errorf("the old epoch shows %d, %q", epoch, value)
			}
			plan, err := Recover(dir, quiet, time.Now, takeItSo)
			if err != nil {
				t.Fatal(err)
			}
			if others := plan.Others(); len(others) != 1 || !strings.Contains(others[0], "non-voter") {
				t.Errorf("the new epoch goes on without %v", others)
			}
			if epoch, value := shows(t, dir); epoch != 2 || value != "v" {
				t.Errorf("the new epoch shows %d, %q", epoch, value)
			}
			if left, err := filepath.Glob(filepath.Join(dir, "raft*")); err != nil || len(left) != 2 {
				t.Errorf("what is left: %v, %v", left, err)
			}
			if _, err := Recover(dir, quiet, time.Now, takeItSo); err != nil { // and once more, after another loss
				t.Fatal(err)
			}
			if epoch, value := shows(t, dir); epoch != 3 || value != "v" {
				t.Errorf("the epoch after that shows %d, %q", epoch, value)
			}
		})
	}
}

// recoverUpToCharter takes the last step of a recovery back, as if it had never come to it.
func recoverUpToCharter(t *testing.T, dir string) {
	t.Helper()
	before, err := os.ReadFile(charterPath(dir))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Recover(dir, quiet, time.Now, takeItSo); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(charterPath(dir), before, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestRecoverRefuses(t *testing.T) {
	if _, err := Recover(t.TempDir(), quiet, time.Now, takeItSo); err == nil || !strings.Contains(err.Error(), "nothing to recover") {
		t.Errorf("a blank node: %v", err)
	}
	dir, _, _ := member(t)
	unlock, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Recover(dir, quiet, time.Now, takeItSo); err == nil || !strings.Contains(err.Error(), "another kontiki runs") {
		t.Errorf("a running node: %v", err)
	}
	unlock()
	if err := os.WriteFile(filepath.Join(dir, "raft", "raft.db"), []byte(strings.Repeat("x", 8192)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Recover(dir, quiet, time.Now, takeItSo); err == nil || !strings.Contains(err.Error(), "try another survivor") {
		t.Errorf("a damaged replica: %v", err)
	}
}

// A restore makes a blank directory the first node's of a new epoch; one that fails, or ends
// before its last step, leaves it blank.
func TestRestore(t *testing.T) {
	_, archive, key := member(t)
	dir := t.TempDir()
	restore := func(archive []byte, key string) (Restored, error) {
		return Restore(bytes.NewReader(archive), RestoreConfig{DataDir: dir, Key: key, Logger: quiet, Now: time.Now})
	}
	wrong := strings.Replace(key, key[:1], "#", 1)
	for name, step := range map[string]struct {
		archive []byte
		key     string
		want    string
	}{
		"cut short":   {archive[:len(archive)-1], key, "cut short"},
		"other key":   {archive, wrong, "sealed with key"},
		"no key":      {archive, "", "not a key-encryption key"},
		"wrong bytes": {archive, key[:len(key)-3] + "0\n", "key-encryption key"},
	} {
		if _, err := restore(step.archive, step.key); err == nil || !strings.Contains(err.Error(), step.want) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := loadCharter(dir); !errors.Is(err, errBlank) {
			t.Errorf("%s: the node is not blank: %v", name, err)
		}
		if left, err := filepath.Glob(filepath.Join(dir, "raft*")); err != nil || len(left) > 0 {
			t.Errorf("%s: it left %v, %v", name, left, err)
		}
	}
	noClock := RestoreConfig{DataDir: dir, Key: key, Logger: quiet, Now: func() time.Time { return time.Unix(0, 0) }}
	if _, err := Restore(bytes.NewReader(archive), noClock); err == nil || !strings.Contains(err.Error(), "set the clock") {
		t.Errorf("a clock of 1970: %v", err)
	}
	if _, err := restore(archive, key); err != nil {
		t.Fatal(err)
	}
	if err := pki.RemoveTrust(dir); err != nil { // as a crash before the last step leaves it
		t.Fatal(err)
	}
	if _, err := loadCharter(dir); !errors.Is(err, errBlank) {
		t.Errorf("half restored: %v", err)
	}
	done, err := restore(archive, key)
	if err != nil {
		t.Fatal(err)
	}
	if done.Epoch.Number() < 1_700_000_000 || done.Revision < 1<<32 { // whatever came after the snapshot
		t.Errorf("%+v", done)
	}
	if epoch, value := shows(t, dir); epoch != done.Epoch.Number() || value != "v" {
		t.Errorf("it shows %d, %q", epoch, value)
	}
	s := openReplica(t, raftstoretest.NewNetwork(), dir, done.NodeID)
	if n := s.View().Count(namesPrefix); n != 0 {
		t.Errorf("%d names belong to nodes that there are no more", n)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := restore(archive, key); err == nil || !strings.Contains(err.Error(), "belongs to a node of cluster") {
		t.Errorf("restored over a member: %v", err)
	}
}

func TestResetMembership(t *testing.T) {
	dir, archive, key := member(t)
	before, err := pki.LoadIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := ResetMembership(dir, doNotReset); !errors.Is(err, errNotNow) {
		t.Fatal(err)
	}
	if epoch, value := shows(t, dir); epoch != 1 || value != "v" {
		t.Errorf("a reset that was not confirmed: %d, %q", epoch, value)
	}
	for range 2 { // the second finishes what a crash cut off
		if err := ResetMembership(dir, resetItSo); err != nil {
			t.Fatal(err)
		}
	}
	after, err := pki.LoadIdentity(dir)
	if err != nil || after.ID != before.ID {
		t.Errorf("node %s was %s, %v", after.ID, before.ID, err)
	}
	if _, err := Restore(bytes.NewReader(archive), RestoreConfig{DataDir: dir, Key: key, Logger: quiet, Now: time.Now}); err != nil {
		t.Errorf("the node is not blank: %v", err)
	}
}
