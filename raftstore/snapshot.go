package raftstore

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"time"

	iradix "github.com/hashicorp/go-immutable-radix/v2"
	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/raft"
)

// A snapshot is a stream of msgpack values: the magic, a header, as many keys,
// sessions and results as the header says, and the magic again. Raft's file
// store adds a checksum over the whole.
const (
	snapshotMagic  = "kontiki-snapshot"
	snapshotFormat = 1
)

type snapshotHeader struct {
	Format      int
	Revision    uint64
	Compacted   uint64
	Index       uint64
	Term        uint64
	LastSession uint64
	Keys        int
	Sessions    int
	Results     int
	// Contents is the sum over all entries, as they were written; with Summed. What is
	// read must have it, or it was damaged: in a file, on its way, or before, in memory.
	Summed   bool
	Contents contents
	Gate     uint8 // 0 of programs that had no gate
}

func openSnapshots(dir string, log *raftLogger) (raft.SnapshotStore, error) {
	files, err := raft.NewFileSnapshotStoreWithLogger(dir, snapshotsKept, log)
	if err != nil {
		return nil, fmt.Errorf("raftstore: snapshots in %s: %w", dir, err)
	}
	return files, nil
}

type keptResult struct {
	Key    []byte
	Result result
}

// snapshot writes one immutable state; Apply goes on meanwhile. damaged is told if what
// lies in memory is not what was written, and persisted when all is.
type snapshot struct {
	s         *state
	damaged   func(error)
	persisted func(began time.Time)
}

func (s snapshot) Release() {}

// Persist writes the snapshot to Raft's sink.
func (s snapshot) Persist(sink raft.SnapshotSink) error {
	began := time.Now()
	w := bufio.NewWriterSize(sink, 1<<18)
	err := writeSnapshot(w, s.s)
	if err == nil {
		err = w.Flush()
	}
	if errors.Is(err, errContents) {
		s.damaged(err)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("raftstore: write snapshot: %w", err), sink.Cancel())
	}
	err = sink.Close()
	s.persisted(began)
	return err
}

// errContents is wrapped when entries are not those that were written.
var errContents = errors.New("the contents are damaged")

func writeSnapshot(w io.Writer, s *state) error {
	enc := codec.NewEncoder(w, msgpack)
	err := enc.Encode(snapshotMagic)
	var sum contents
	put := func(v any) bool { // for walks: true ends them
		if err == nil {
			err = enc.Encode(v)
		}
		return err != nil
	}
	put(snapshotHeader{
		Format: snapshotFormat, Revision: s.revision, Compacted: s.compacted, Index: s.index, Term: s.term,
		LastSession: s.lastSession, Keys: s.keys.Len(), Sessions: s.open.Len(), Results: s.results.Len(),
		Summed: true, Contents: s.contents, Gate: s.gate,
	})
	s.keys.Root().Walk(func(_ []byte, kv *KV) bool {
		sum += hashKV(kv)
		if kv.ExpiresUnix != 0 {
			sum += hashExpiry(expiryKey(kv.ExpiresUnix, kv.Key), kv.Key)
		}
		return put(*kv)
	})
	s.open.Root().Walk(func(_ []byte, s session) bool {
		sum += hashSession(s)
		return put(s)
	})
	s.results.Root().Walk(func(k []byte, r result) bool {
		sum += hashResult(k, r)
		return put(keptResult{k, r})
	})
	if err == nil {
		err = checkContents(sum, s.contents)
	}
	put(snapshotMagic)
	return err
}

func checkContents(are, written contents) error {
	if are == written {
		return nil
	}
	return fmt.Errorf("raftstore: %w: they hash to %016x, what was written to %016x", errContents, uint64(are), uint64(written))
}

func readSnapshot(r io.Reader) (s *state, err error) {
	defer func() {
		if p := recover(); p != nil { // the codec panics on some malformed input
			err = fmt.Errorf("raftstore: snapshot is damaged: %v", p)
		}
	}()
	dec := codec.NewDecoder(bufio.NewReaderSize(r, 1<<18), msgpack)
	if err := readMagic(dec); err != nil {
		return nil, err
	}
	var h snapshotHeader
	if err := dec.Decode(&h); err != nil {
		return nil, fmt.Errorf("raftstore: snapshot header: %w", err)
	}
	if h.Format != snapshotFormat {
		return nil, fmt.Errorf("raftstore: snapshot of format %d, of which this program knows %d: %w", h.Format, snapshotFormat, errUnknownVersion)
	}
	s = newState()
	s.revision, s.compacted, s.index, s.term, s.lastSession = max(h.Revision, firstRevision), h.Compacted, h.Index, h.Term, h.LastSession
	s.gate = max(h.Gate, firstVersion)
	if err := readKeys(dec, s, h.Keys); err != nil {
		return nil, err
	}
	open, results := s.open.Txn(), s.results.Txn()
	for i := range h.Sessions {
		var v session
		if err := dec.Decode(&v); err != nil {
			return nil, fmt.Errorf("raftstore: snapshot, session %d of %d: %w", i, h.Sessions, err)
		}
		open.Insert(sessionKey(v.ID), v)
		s.contents += hashSession(v)
	}
	for i := range h.Results {
		var v keptResult
		if err := dec.Decode(&v); err != nil {
			return nil, fmt.Errorf("raftstore: snapshot, result %d of %d: %w", i, h.Results, err)
		}
		results.Insert(v.Key, v.Result)
		s.contents += hashResult(v.Key, v.Result)
	}
	s.open, s.results = open.Commit(), results.Commit()
	if h.Summed {
		if err := checkContents(s.contents, h.Contents); err != nil {
			return nil, err
		}
	}
	return s, readMagic(dec)
}

func readKeys(dec *codec.Decoder, s *state, n int) error {
	keys, expiry := iradix.New[*KV]().Txn(), s.expiry.Txn()
	for i := range n {
		kv := new(KV)
		if err := dec.Decode(kv); err != nil {
			return fmt.Errorf("raftstore: snapshot, key %d of %d: %w", i, n, err)
		}
		kv.hash = hashKV(kv)
		keys.Insert([]byte(kv.Key), kv)
		s.contents += kv.hash
		if kv.ExpiresUnix != 0 {
			at := expiryKey(kv.ExpiresUnix, kv.Key)
			expiry.Insert(at, kv.Key)
			s.contents += hashExpiry(at, kv.Key)
		}
	}
	s.keys, s.expiry = keys.Commit(), expiry.Commit()
	return nil
}

func readMagic(dec *codec.Decoder) error {
	var magic string
	if err := dec.Decode(&magic); err != nil {
		return fmt.Errorf("raftstore: snapshot is cut short: %w", err)
	}
	if magic != snapshotMagic {
		return errors.New("raftstore: not a snapshot of this program")
	}
	return nil
}
