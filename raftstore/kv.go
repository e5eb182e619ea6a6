package raftstore

import (
	"errors"
	"time"
)

var (
	// ErrCompacted is returned for a revision whose history is gone. The caller
	// lists anew and watches from the list's revision.
	ErrCompacted = errors.New("raftstore: the requested revision has been compacted")

	// ErrFutureRevision is returned for a revision that this replica has not
	// reached. The caller waits with WaitRevision, or asks again later.
	ErrFutureRevision = errors.New("raftstore: the requested revision is larger than the current one")

	// ErrNoQuorum is returned when no leader could confirm a read or commit a
	// write before the caller's deadline. For a write the outcome is unknown
	// only if it also wraps ErrOutcomeUnknown.
	ErrNoQuorum = errors.New("raftstore: no quorum of voters is in reach")

	// ErrOutcomeUnknown is returned for a write that may or may not have been
	// committed. It is never executed later than the moment this is returned
	// plus the life of its session.
	ErrOutcomeUnknown = errors.New("raftstore: the outcome of the write is unknown")

	// ErrFenced is returned for a transaction guarded by a term that is not the
	// term of the log entry that carried it. It is final: nothing was written.
	ErrFenced = errors.New("raftstore: the term that guarded the transaction has passed")

	// ErrTooLarge is returned for a transaction beyond the size limit of the store.
	ErrTooLarge = errors.New("raftstore: the transaction is larger than the limit")

	// ErrNotLeader is returned by calls that only the leader answers.
	ErrNotLeader = errors.New("raftstore: this node is not the leader")

	// ErrHalted is returned by every call after the replica met something it
	// cannot apply, such as a command of a newer version of the program.
	ErrHalted = errors.New("raftstore: the replica has halted")

	// ErrDiffers is returned by every call while this replica is known to hold something
	// else than what was written. It refills itself from the others, and then goes on.
	// A watch of before gets it together with ErrCompacted, also later: it has to begin anew,
	// since what was read with it may be wrong.
	ErrDiffers = errors.New("raftstore: this node's replica is damaged and is being refilled")

	// ErrClosed is returned by every call after Close.
	ErrClosed = errors.New("raftstore: the store is closed")
)

// KV is one key with its value and history. It is immutable; a reader that
// wants to change Value copies it first.
type KV struct {
	Key            string
	Value          []byte
	CreateRevision uint64 // revision at which the key came into being
	ModRevision    uint64 // revision of the last change
	Version        uint64 // number of changes since creation, 1 for a new key
	// ExpiresUnix is the second (Unix time, the proposer's clock) after which the
	// leader proposes the key's removal; 0 means never.
	ExpiresUnix int64

	hash contents // of the fields above, as they were written
}

// Compare is one condition of a transaction: the key's mod revision equals
// ModRevision. ModRevision 0 means that the key does not exist.
type Compare struct {
	Key         string
	ModRevision uint64
}

// OpKind says what an Op does to its key.
type OpKind uint8

// The kinds of Op.
const (
	OpPut    OpKind = 1
	OpDelete OpKind = 2
)

// Op is one change of a transaction. A delete of a missing key changes nothing
// and consumes no revision.
type Op struct {
	Kind  OpKind
	Key   string
	Value []byte
	TTL   time.Duration // of a put: 0 means for ever; granularity one second
}

// Txn is a set of changes that happen all or not at all, if every compare holds.
// A key may appear in at most one Op.
type Txn struct {
	Compares []Compare
	Ops      []Op
	// Term guards the transaction: if it is not 0 and the log entry that carries
	// the transaction has another Raft term, nothing happens and ErrFenced is
	// returned. It is set by components that run only on the leader.
	Term uint64
}

// TxnResult is what a transaction did.
type TxnResult struct {
	// Succeeded tells whether every compare held.
	Succeeded bool
	// Revision is the store's revision after the transaction.
	Revision uint64
	// Revisions holds, per Op, the revision that it consumed, 0 for a delete of
	// a missing key. Empty when Succeeded is false.
	Revisions []uint64
	// Current holds, per Compare, what the store held when the transaction
	// failed; nil for a key that does not exist. Empty when Succeeded is true.
	Current []*KV
}

// Event is one change of one key.
type Event struct {
	// KV is the key after the change. For a delete its Value is empty and its
	// ModRevision is the revision of the delete.
	KV KV
	// Prev is the key before the change, nil for a create.
	Prev *KV
	// Deleted tells a delete from a put.
	Deleted bool
}

// Revision is the revision that the change consumed.
func (e Event) Revision() uint64 { return e.KV.ModRevision }
