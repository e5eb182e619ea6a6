package raftstore

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	iradix "github.com/hashicorp/go-immutable-radix/v2"
	"github.com/hashicorp/raft"
)

// What is done to directories of stores that do not run: looking at what one holds, and
// beginning another epoch with it.

// Replica is a state outside of a running store. It is immutable.
type Replica struct{ state *state }

// View returns its contents.
func (r Replica) View() View { return r.state.view() }

// Holding is what a directory holds, to the end of its log: also entries of which it does
// not know whether they were committed. Raft's rule tells whose replica of several is the
// furthest: the one with the highest LogTerm, and of these with the highest LogIndex.
type Holding struct {
	NodeID, ClusterID string
	Epoch             Epoch
	Log               LogStore
	LogIndex, LogTerm uint64
	LogTime           time.Time // when the last entry was made; zero if it is not known
	Committed         uint64    // what the directory itself knows to be committed
	Members           []Member
	Replica
}

// Examine reads a directory whose store does not run. Damage is an error.
func Examine(dir string, log *slog.Logger) (h Holding, err error) {
	is, err := readIdentity(dir)
	if err != nil {
		return h, err
	}
	h.NodeID, h.ClusterID, h.Epoch, h.Log = is.NodeID, is.ClusterID, is.Epoch, is.Log
	snapshots, err := openSnapshots(dir, newRaftLogger(log))
	if err != nil {
		return h, err
	}
	d, err := openDisk(dir, is, log)
	if err != nil {
		return h, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	f := newFSM(log, 0)
	if err := d.replay(f, snapshots); err != nil {
		return h, err
	}
	h.Committed = d.committed.Load()
	if err := h.readEnd(d, snapshots); err != nil {
		return h, err
	}
	if err := d.replayLog(f, h.Committed, h.LogIndex); err != nil {
		return h, err
	}
	h.state = f.current.Load()
	return h, nil
}

// openDisk opens the log of a directory outside of a running store.
func openDisk(dir string, is identity, log *slog.Logger) (*disk, error) {
	store, err := openLog(dir, is, log)
	if err != nil {
		return nil, err
	}
	d := newDisk(store, dir, is, log)
	if err := d.checkStable(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// readEnd finds the end of the log and the latest configuration of members.
func (h *Holding) readEnd(d *disk, snapshots raft.SnapshotStore) error {
	list, err := snapshots.List()
	if err != nil {
		return fmt.Errorf("raftstore: list snapshots: %w", err)
	}
	var members raft.Configuration
	if len(list) > 0 {
		h.LogIndex, h.LogTerm, members = list[0].Index, list[0].Term, list[0].Configuration
	}
	first, err := d.FirstIndex()
	if err != nil {
		return fmt.Errorf("raftstore: read the beginning of the log: %w", err)
	}
	last, err := d.LastIndex()
	if err != nil {
		return fmt.Errorf("raftstore: read the end of the log: %w", err)
	}
	for i := max(first, 1); i <= last; i++ {
		var l raft.Log
		if err := d.GetLog(i, &l); errors.Is(err, raft.ErrLogNotFound) {
			continue // a snapshot from another node leaves a gap
		} else if err != nil {
			return fmt.Errorf("raftstore: log entry %d: %w", i, err)
		}
		if l.Type == raft.LogConfiguration && i > newest(list) {
			if members, err = decodeConfiguration(l.Data); err != nil {
				return fmt.Errorf("raftstore: log entry %d: %w", i, err)
			}
		}
		if i >= h.LogIndex {
			h.LogIndex, h.LogTerm, h.LogTime = i, l.Term, l.AppendedAt
		}
	}
	for _, s := range members.Servers {
		h.Members = append(h.Members, Member{ID: string(s.ID), Voter: s.Suffrage == raft.Voter})
	}
	return nil
}

func decodeConfiguration(b []byte) (c raft.Configuration, err error) {
	defer func() {
		if p := recover(); p != nil { // which is how Raft refuses it
			err = fmt.Errorf("a malformed configuration: %v", p)
		}
	}()
	return raft.DecodeConfiguration(b), nil
}

// Beginning says how an epoch begins.
type Beginning struct {
	NodeID, ClusterID string // whose directory it is; this node is the only voter
	Epoch             Epoch
	Log               LogStore // LogBolt when empty
	Revision          uint64   // from LiftedRevision
	Without           string   // keys with this prefix are left out, unless it is empty
	// Index and Term are the end of the log that the replica comes from, if there is one.
	Index, Term uint64
}

// The distance of a new epoch's first revision from the last that is known, and its
// growth with time: no cluster writes a million revisions in each second of its life.
const (
	liftLeast     = 1 << 32
	liftPerSecond = 1 << 20
)

// LiftedRevision is where an epoch begins of which it is known that the one before had
// reached the revision held: beyond anything that can have been shown, also by a
// cluster that went on after what is known of it.
func LiftedRevision(held uint64, now time.Time) uint64 {
	return max(held+liftLeast, uint64(max(now.Unix(), 0))*liftPerSecond)
}

// begin is the state in which an epoch begins: the keys are as they were; all revisions
// below the new one are compacted; and nobody is left whose writes could be retried.
func (s *state) begin(revision uint64, without string) (*state, error) {
	if revision <= s.revision {
		return nil, fmt.Errorf("raftstore: an epoch cannot begin at revision %d, the state is at %d", revision, s.revision)
	}
	next := *s
	next.revision, next.compacted = revision, revision
	next.index, next.term = max(s.index, 1), max(s.term, 1)
	next.open, next.results = iradix.New[session](), iradix.New[result]()
	next.contents = 0
	if without != "" {
		next.keys, next.expiry = s.leaveOut(without)
	}
	next.keys.Root().Walk(func(_ []byte, kv *KV) bool {
		next.contents += hashKV(kv)
		return false
	})
	next.expiry.Root().Walk(func(k []byte, key string) bool {
		next.contents += hashExpiry(k, key)
		return false
	})
	return &next, nil
}

// leaveOut makes the trees without the keys that begin with prefix.
func (s *state) leaveOut(prefix string) (*iradix.Tree[*KV], *iradix.Tree[string]) {
	keys, expiry := s.keys.Txn(), s.expiry.Txn()
	s.keys.Root().WalkPrefix([]byte(prefix), func(_ []byte, kv *KV) bool {
		if kv.ExpiresUnix != 0 {
			expiry.Delete(expiryKey(kv.ExpiresUnix, kv.Key))
		}
		return false
	})
	keys.DeletePrefix([]byte(prefix))
	return keys.Commit(), expiry.Commit()
}

const (
	partSuffix      = ".part"
	keyTerm         = "CurrentTerm" // Raft's key in the stable store
	snapshotVersion = 1             // Raft's, of what describes a snapshot
)

// Begin writes the directory of a node that begins an epoch with this replica. The
// directory must not exist; it is there whole, or not at all.
func (r Replica) Begin(dir string, b Beginning, log *slog.Logger) error {
	st, err := r.state.begin(b.Revision, b.Without)
	if err != nil {
		return err
	}
	index, term := max(b.Index, st.index), max(b.Term, st.term)
	if _, err := os.Stat(dir); err == nil {
		return fmt.Errorf("raftstore: %s exists already", dir)
	}
	part := dir + partSuffix
	if err := os.RemoveAll(part); err != nil {
		return fmt.Errorf("raftstore: %w", err)
	}
	is, err := claimDir(part, identity{NodeID: b.NodeID, ClusterID: b.ClusterID, Epoch: b.Epoch, Log: b.Log})
	if err != nil {
		return err
	}
	if err := beginLog(part, is, index, term, log); err != nil {
		return err
	}
	if err := beginSnapshot(part, st, b.NodeID, index, term, log); err != nil {
		return err
	}
	if err := os.Rename(part, dir); err != nil {
		return fmt.Errorf("raftstore: %w", err)
	}
	return syncDir(filepath.Dir(dir))
}

// beginLog writes an empty log whose term is that of the snapshot beside it.
func beginLog(dir string, is identity, index, term uint64, log *slog.Logger) error {
	d, err := openDisk(dir, is, log)
	if err != nil {
		return err
	}
	err = d.storeUint64([]byte(keyTerm), term)
	if err == nil {
		err = d.storeUint64(keyCommit, index)
	}
	if err := errors.Join(err, d.Close()); err != nil {
		return fmt.Errorf("raftstore: begin the log in %s: %w", dir, err)
	}
	return nil
}

func beginSnapshot(dir string, st *state, nodeID string, index, term uint64, log *slog.Logger) error {
	snapshots, err := openSnapshots(dir, newRaftLogger(log))
	if err != nil {
		return err
	}
	members := raft.Configuration{Servers: []raft.Server{{ID: raft.ServerID(nodeID), Address: raft.ServerAddress(nodeID)}}}
	_, addresses := raft.NewInmemTransport(raft.ServerAddress(nodeID)) // encodes an address as itself
	sink, err := snapshots.Create(snapshotVersion, index, term, members, index, addresses)
	if err != nil {
		return fmt.Errorf("raftstore: write a snapshot to %s: %w", dir, err)
	}
	var damage error
	if err := (snapshot{st, func(err error) { damage = err }, func(time.Time) {}}).Persist(sink); err != nil {
		return errors.Join(err, damage)
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("raftstore: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}
