package raftstore

import (
	"errors"
	"io"

	"github.com/hashicorp/raft"
)

// What a member holds already.
//
// A log that keeps entries from before a snapshot that was installed has a gap up to it (raft-boltdb),
// or nothing there at all (raft-wal). Raft v1.8.0 looks for the entry before new ones in the
// log only, and knows the snapshot's own entry as long as nothing follows it. A member that
// crashed when it had stored the first entries after a snapshot, and had not said so, is
// asked to go on from the snapshot and refuses; the leader goes back entry by entry, sends
// the snapshot again, and so on, until it takes a later one. If the snapshot it sends is older than
// what the member has applied, the member's state goes back, and the entries in the gap, which
// are to follow, end the process.

// skipHeld takes off a request what this member has applied, where its log does not have the entry
// that the request continues. What is applied is committed, and so a part of the log of
// every leader whose term is not over: there is nothing to compare.
func (t *transport) skipHeld(req *raft.AppendEntriesRequest) {
	r := t.election.raft.Load()
	if r == nil || req.PrevLogEntry == 0 || req.PrevLogEntry >= r.LastIndex() {
		return // Raft compares it with the last entry, or does not have it
	}
	applied := r.AppliedIndex()
	if req.PrevLogEntry > applied {
		return
	}
	if err := t.log.GetLog(req.PrevLogEntry, new(raft.Log)); !errors.Is(err, raft.ErrLogNotFound) {
		return
	}
	for len(req.Entries) > 0 && req.Entries[0].Index <= applied {
		req.Entries = req.Entries[1:]
	}
	req.PrevLogEntry, req.PrevLogTerm = 0, 0 // Raft's word for the beginning, which all have in common
}

// declineHeld answers a request to install a snapshot of what this member has applied, as if it
// had been installed, and reports whether it did.
func (t *transport) declineHeld(rpc raft.RPC, req *raft.InstallSnapshotRequest) bool {
	r := t.election.raft.Load()
	if term, inStep := t.election.inStep(); r == nil || !inStep || req.Term != term || req.LastLogIndex > r.AppliedIndex() {
		return false
	}
	_, err := io.Copy(io.Discard, rpc.Reader) // the stream goes on behind it
	rpc.Respond(&raft.InstallSnapshotResponse{RPCHeader: raft.RPCHeader{ProtocolVersion: req.ProtocolVersion}, Term: req.Term, Success: err == nil}, err)
	return true
}
