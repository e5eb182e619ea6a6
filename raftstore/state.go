package raftstore

import (
	"encoding/binary"

	iradix "github.com/hashicorp/go-immutable-radix/v2"

	"kontiki/raftstore/internal/seeded"
)

// state is the replicated state after some log entry. It is immutable; apply
// makes the next one.
type state struct {
	keys    *iradix.Tree[*KV]
	expiry  *iradix.Tree[string]  // expiryKey → key
	open    *iradix.Tree[session] // sessionKey → session
	results *iradix.Tree[result]  // resultKey → kept result

	revision    uint64 // of the last change
	compacted   uint64 // state below it is gone, on every replica
	index       uint64 // of the last command entry applied
	term        uint64 // of that entry
	lastSession uint64

	contents contents // the sum over the trees, see digest
	gate     uint8    // the latest version of commands that may be written
}

// session is the FSM's side of a proposer.
type session struct {
	ID          uint64
	Node        string
	Incarnation string
	Floor       uint64 // results below it are gone
}

// firstRevision is that of a store into which nothing was ever written, as in
// etcd: a list of an empty store has a revision that a client can name.
const firstRevision = 1

func newState() *state {
	return &state{
		revision: firstRevision,
		gate:     firstVersion,
		keys:     iradix.New[*KV](),
		expiry:   iradix.New[string](),
		open:     iradix.New[session](),
		results:  iradix.New[result](),
	}
}

func sessionKey(id uint64) []byte { return binary.BigEndian.AppendUint64(nil, id) }

func resultKey(id, sequence uint64) []byte {
	return binary.BigEndian.AppendUint64(sessionKey(id), sequence)
}

// expiryKey sorts by time; the sign bit does not matter, as no time lies before 1970.
func expiryKey(unix int64, key string) []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(unix)), key...)
}

// transition is the making of one state out of another by one log entry.
type transition struct {
	next    state
	keys    *iradix.Txn[*KV]
	expiry  *iradix.Txn[string]
	open    *iradix.Txn[session]
	results *iradix.Txn[result]
	events  []Event
}

// apply runs the commands of one log entry. It is pure: the same state, index,
// term and commands give the same outcome on every replica.
func (s *state) apply(index, term uint64, commands []command) (*state, []result, []Event) {
	t := &transition{
		next: *s, keys: s.keys.Txn(), expiry: s.expiry.Txn(), open: s.open.Txn(), results: s.results.Txn(),
	}
	t.next.index, t.next.term = index, term
	out := make([]result, len(commands))
	for i := range commands {
		out[i] = t.run(&commands[i])
	}
	t.next.keys, t.next.expiry = t.keys.Commit(), t.expiry.Commit()
	t.next.open, t.next.results = t.open.Commit(), t.results.Commit()
	return &t.next, out, t.events
}

func (t *transition) run(c *command) result {
	switch c.Kind {
	case kindOpen:
		return t.openSession(c)
	case kindExpire:
		t.expireSessions(c.Node, "")
	case kindCompact:
		if c.Revision <= t.next.revision {
			t.next.compacted = max(t.next.compacted, c.Revision)
		}
	case kindGate:
		if c.Term != t.next.term {
			return result{Code: codeFenced} // members may have come that its leader did not ask
		}
		t.next.gate = max(t.next.gate, c.Gate)
	case kindTxn:
		return t.once(c)
	}
	return result{Code: codeDone, Txn: TxnResult{Succeeded: true, Revision: t.next.revision}}
}

// openSession begins a session under a fresh id, so that a repeated or late
// open never revives an old one, and ends those of the node's earlier processes.
func (t *transition) openSession(c *command) result {
	t.expireSessions(c.Node, c.Incarnation)
	t.next.lastSession++
	id := t.next.lastSession
	t.putSession(session{ID: id, Node: c.Node, Incarnation: c.Incarnation})
	return result{Code: codeDone, Session: id}
}

func (t *transition) expireSessions(node, exceptIncarnation string) {
	var gone []session
	t.open.Root().Walk(func(_ []byte, s session) bool {
		if s.Node == node && (exceptIncarnation == "" || s.Incarnation != exceptIncarnation) {
			gone = append(gone, s)
		}
		return false
	})
	for _, s := range gone {
		t.next.contents -= hashSession(s)
		t.open.Delete(sessionKey(s.ID))
		// Not by DeletePrefix (go-immutable-radix v2.1.0): after an insert in the same Txn it
		// miscounts, and a snapshot would promise results that are not in it.
		var keys [][]byte
		t.results.Root().WalkPrefix(sessionKey(s.ID), func(k []byte, r result) bool {
			t.next.contents -= hashResult(k, r)
			keys = append(keys, k)
			return false
		})
		for _, k := range keys {
			t.results.Delete(k)
		}
	}
}

// putSession opens a session, or changes one.
func (t *transition) putSession(s session) {
	if before, open := t.open.Insert(sessionKey(s.ID), s); open {
		t.next.contents -= hashSession(before)
	}
	t.next.contents += hashSession(s)
}

// once runs a transaction unless its session says that it has been run, or that
// nobody can know.
func (t *transition) once(c *command) result {
	s, ok := t.open.Get(sessionKey(c.Session))
	if !ok {
		return result{Code: codeUnknownSession}
	}
	if c.Floor > s.Floor {
		t.raiseFloor(s, c.Floor)
		s.Floor = c.Floor
	}
	if c.Sequence < s.Floor {
		return result{Code: codeBelowFloor}
	}
	key := resultKey(c.Session, c.Sequence)
	if kept, ok := t.results.Get(key); ok && seeded.Error != seeded.SessionlessRetry {
		return kept
	}
	r := t.txn(c)
	t.results.Insert(key, r)
	t.next.contents += hashResult(key, r)
	return r
}

func (t *transition) raiseFloor(s session, floor uint64) {
	var gone [][]byte
	it := t.results.Root().Iterator()
	it.SeekLowerBound(resultKey(s.ID, s.Floor))
	for {
		key, _, ok := it.Next()
		if !ok || string(key) >= string(resultKey(s.ID, floor)) {
			break
		}
		gone = append(gone, key)
	}
	for _, key := range gone {
		if r, kept := t.results.Delete(key); kept {
			t.next.contents -= hashResult(key, r)
		}
	}
	s.Floor = floor
	t.putSession(s)
}

func (t *transition) txn(c *command) result {
	if c.Term != 0 && c.Term != t.next.term {
		return result{Code: codeFenced}
	}
	out := TxnResult{Succeeded: true}
	for _, cmp := range c.Compares {
		var rev uint64
		if kv, ok := t.keys.Get([]byte(cmp.Key)); ok {
			rev = kv.ModRevision
		}
		if rev != cmp.ModRevision {
			out.Succeeded = false
		}
	}
	if out.Succeeded {
		out.Revisions = make([]uint64, len(c.Ops))
		for i := range c.Ops {
			out.Revisions[i] = t.op(&c.Ops[i])
		}
	} else {
		out.Current = make([]*KV, len(c.Compares))
		for i, cmp := range c.Compares {
			out.Current[i], _ = t.keys.Get([]byte(cmp.Key))
		}
	}
	out.Revision = t.next.revision
	return result{Code: codeDone, Txn: out}
}

// op changes one key and returns the revision that took, 0 if nothing changed.
func (t *transition) op(o *operation) uint64 {
	key := []byte(o.Key)
	prev, exists := t.keys.Get(key)
	if o.Kind == OpDelete && !exists {
		return 0
	}
	t.next.revision++
	kv := KV{Key: o.Key, CreateRevision: t.next.revision, ModRevision: t.next.revision, Version: 1}
	if exists {
		kv.CreateRevision, kv.Version = prev.CreateRevision, prev.Version+1
		t.next.contents -= prev.hash
		if prev.ExpiresUnix != 0 {
			at := expiryKey(prev.ExpiresUnix, o.Key)
			t.expiry.Delete(at)
			t.next.contents -= hashExpiry(at, o.Key)
		}
	}
	if o.Kind == OpDelete {
		t.keys.Delete(key)
		t.events = append(t.events, Event{KV: kv, Prev: prev, Deleted: true})
		return kv.ModRevision
	}
	kv.Value, kv.ExpiresUnix = o.Value, o.ExpiresUnix
	if kv.ExpiresUnix != 0 {
		at := expiryKey(kv.ExpiresUnix, o.Key)
		t.expiry.Insert(at, o.Key)
		t.next.contents += hashExpiry(at, o.Key)
	}
	kv.hash = hashKV(&kv)
	t.keys.Insert(key, &kv)
	t.next.contents += kv.hash
	t.events = append(t.events, Event{KV: kv, Prev: prev})
	return kv.ModRevision
}
