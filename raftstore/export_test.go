package raftstore

import (
	"context"
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"

	"kontiki/raftstore/voters"
)

// ProposeRaw puts bytes into the log as one entry.
func (s *Store) ProposeRaw(entry []byte) error { return s.raft.Apply(entry, enqueueTimeout).Error() }

// FutureEntry is a log entry with a command of a version that does not exist yet.
func FutureEntry() []byte { return encodeEntry([][]byte{{CommandVersion + 1, 0xc0}}) }

// FirstLogIndex is the beginning of what is left of the log.
func (s *Store) FirstLogIndex() (uint64, error) { return s.disk.FirstIndex() }

// DiskWrites counts the transactions that have written to a log and stable store of LogBolt, by
// the number in the file's newest header: bbolt's own statistics come later than what was written.
func (s *Store) DiskWrites() int64 {
	file, err := os.ReadFile(filepath.Join(s.cfg.Dir, boltFileName))
	if err != nil {
		panic(err)
	}
	var n uint64
	for i := range 2 {
		n = max(n, binary.LittleEndian.Uint64(file[i*os.Getpagesize()+boltHeader+48:]))
	}
	return int64(n)
}

// CommitMarked tells whether the disk knows the present commit index.
func (s *Store) CommitMarked() bool {
	v, err := s.disk.GetUint64(keyCommit)
	return err == nil && v == s.fsm.current.Load().index
}

// TransferTo makes another voter the leader.
func (s *Store) TransferTo(id string) error {
	return s.transferLeadership(func() raft.Future {
		return s.raft.LeadershipTransferToServer(raft.ServerID(id), raft.ServerAddress(id))
	})
}

// LinearizeByVerifyLeader is Linearize on the leader as one would build it on
// Raft's VerifyLeader: the error that Linearize avoids, seeded. asked is called
// when Raft has begun to verify.
func (s *Store) LinearizeByVerifyLeader(ctx context.Context, asked func()) (View, error) {
	index, err := s.lastCommitted()
	if err != nil {
		return View{}, err
	}
	verified := s.raft.VerifyLeader()
	// Raft's loop takes from its queues in any order; each of these is a turn of it.
	for range 64 {
		_ = s.raft.BootstrapCluster(raft.Configuration{}).Error() // a leader refuses
	}
	asked()
	if err := verified.Error(); err != nil {
		return View{}, err
	}
	st, err := s.fsm.waitFor(ctx, func(st *state) bool { return st.index >= index })
	return st.view(), err
}

// WithDisk puts a disk of the test's around all writes of a store.
func WithDisk(cfg *Config, around func(write func() error) error) { cfg.aroundWrite = around }

// WithCommandVersion makes a store that knows commands up to a version.
func WithCommandVersion(cfg *Config, version int) { cfg.commandVersion = uint8(version) }

func logOf(index uint64, commands ...[]byte) *raft.Log {
	return &raft.Log{Index: index, Term: 1, Data: encodeEntry(commands)}
}

// Scrub looks at all that lies in memory now.
func (s *Store) Scrub() error { return s.scrub(context.Background()) }

// Digest is that of the present state, with its index.
func (s *Store) Digest() (index, digest uint64) {
	st := s.fsm.current.Load()
	return st.index, st.digest()
}

// CompareNow compares all replicas, on the leader.
func (s *Store) CompareNow() { s.compare(s.Leadership().Term, map[string]uint64{}) }

func checksumOf(b []byte) []byte {
	return binary.BigEndian.AppendUint32(nil, crc32.Checksum(b, castagnoli))
}

// ConfigurationIndex is that of the latest configuration.
func (s *Store) ConfigurationIndex() (uint64, error) { return s.configurationIndex() }

// ChangeAt makes a change that the leader of a term has decided on a configuration. Belong are
// the nodes that belong to the cluster by then.
func (s *Store) ChangeAt(ctx context.Context, term, configuration uint64, c voters.Change, belong ...string) error {
	peers := map[string]Peer{}
	for _, id := range belong {
		peers[id] = Peer{State: PeerAlive}
	}
	k := &keeper{store: s, term: term, voting: Voting{Peers: func() map[string]Peer { return peers }}, refused: map[string]refusal{}}
	return k.make(ctx, c, s.servers(), configuration)
}
