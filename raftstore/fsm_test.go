package raftstore

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"
)

// model is the FSM as one would write it without a thought for speed: a map, and
// all maps that ever were.
type model struct {
	keys     map[string]KV
	revision uint64
	past     []map[string]KV // by revision
	events   []Event
	sessions map[uint64]map[uint64]result
	floors   map[uint64]uint64
}

func newModel() *model {
	return &model{
		keys: map[string]KV{}, past: []map[string]KV{{}, {}}, revision: firstRevision,
		sessions: map[uint64]map[uint64]result{1: {}, 2: {}}, floors: map[uint64]uint64{},
	}
}

func (m *model) run(term uint64, c command) result {
	kept, ok := m.sessions[c.Session]
	if !ok {
		return result{Code: codeUnknownSession}
	}
	if c.Floor > m.floors[c.Session] {
		m.floors[c.Session] = c.Floor
		for seq := range kept {
			if seq < c.Floor {
				delete(kept, seq)
			}
		}
	}
	if c.Sequence < m.floors[c.Session] {
		return result{Code: codeBelowFloor}
	}
	if r, ok := kept[c.Sequence]; ok {
		return r
	}
	r := m.txn(term, c)
	kept[c.Sequence] = r
	return r
}

func (m *model) txn(term uint64, c command) result {
	if c.Term != 0 && c.Term != term {
		return result{Code: codeFenced}
	}
	r := TxnResult{Succeeded: true}
	for _, cmp := range c.Compares {
		if m.keys[cmp.Key].ModRevision != cmp.ModRevision {
			r.Succeeded = false
		}
	}
	if !r.Succeeded {
		for _, cmp := range c.Compares {
			if kv, ok := m.keys[cmp.Key]; ok {
				r.Current = append(r.Current, &kv)
			} else {
				r.Current = append(r.Current, nil)
			}
		}
	}
	for _, op := range c.Ops {
		if r.Succeeded {
			r.Revisions = append(r.Revisions, m.op(op))
		}
	}
	r.Revision = m.revision
	return result{Code: codeDone, Txn: r}
}

func (m *model) op(op operation) uint64 {
	prev, exists := m.keys[op.Key]
	if op.Kind == OpDelete && !exists {
		return 0
	}
	m.revision++
	next := KV{Key: op.Key, CreateRevision: m.revision, ModRevision: m.revision, Version: 1}
	e := Event{Deleted: op.Kind == OpDelete}
	if exists {
		next.CreateRevision, next.Version, e.Prev = prev.CreateRevision, prev.Version+1, &prev
	}
	m.keys = maps.Clone(m.keys)
	if op.Kind == OpPut {
		next.Value, next.ExpiresUnix = op.Value, op.ExpiresUnix
		m.keys[op.Key] = next
	} else {
		delete(m.keys, op.Key)
	}
	e.KV = next
	m.past, m.events = append(m.past, m.keys), append(m.events, e)
	return m.revision
}

func genKey(t *rapid.T, label string) string {
	return rapid.StringMatching(`[ab]{1,2}(/[abc]{0,2})?`).Draw(t, label)
}

func genCommand(t *rapid.T, m *model) command {
	c := command{
		Kind:     kindTxn,
		Session:  rapid.Uint64Range(1, 3).Draw(t, "session"), // 3 is unknown
		Sequence: rapid.Uint64Range(1, 40).Draw(t, "sequence"),
		Floor:    rapid.Uint64Range(0, 30).Draw(t, "floor"),
		Term:     rapid.SampledFrom([]uint64{0, 0, 0, 5, 6}).Draw(t, "term"),
	}
	c.Floor = min(c.Floor, c.Sequence)
	for range rapid.IntRange(0, 2).Draw(t, "compares") {
		key := genKey(t, "compare")
		rev := m.keys[key].ModRevision
		if rapid.IntRange(0, 4).Draw(t, "wrong") == 0 {
			rev++
		}
		c.Compares = append(c.Compares, Compare{key, rev})
	}
	for range rapid.IntRange(0, 3).Draw(t, "ops") {
		op := operation{Kind: OpPut, Key: genKey(t, "key"), Value: []byte(rapid.StringN(0, 3, 3).Draw(t, "value"))}
		if rapid.Bool().Draw(t, "delete") {
			op.Kind, op.Value = OpDelete, nil
		} else if rapid.Bool().Draw(t, "ttl") {
			op.ExpiresUnix = rapid.Int64Range(1, 5).Draw(t, "expires")
		}
		c.Ops = append(c.Ops, op)
	}
	return c
}

// The FSM does what the model does: results, contents, events, every state that
// ever was, and the same again after a snapshot is written and read.
func TestFSMAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f, m := newFSM(slog.New(slog.DiscardHandler), 1<<20), newModel()
		index := uint64(1)
		open := applyEntry(t, f, index, 5, command{Kind: kindOpen, Node: "a"}, command{Kind: kindOpen, Node: "b"})
		if open[0].Session != 1 || open[1].Session != 2 {
			t.Fatalf("sessions: %+v", open)
		}
		for range rapid.IntRange(1, 20).Draw(t, "entries") {
			index++
			var commands []command
			var want []result
			term := rapid.Uint64Range(5, 6).Draw(t, "entry term")
			for range rapid.IntRange(1, 4).Draw(t, "commands") {
				c := genCommand(t, m)
				commands, want = append(commands, c), append(want, m.run(term, c))
			}
			compare(t, "results", applyEntry(t, f, index, term, commands...), want)
			if rapid.IntRange(0, 9).Draw(t, "restore") == 0 {
				f = reread(t, f)
			}
		}
		checkState(t, f, m)
	})
}

func applyEntry(t *rapid.T, f *fsm, index, term uint64, commands ...command) []result {
	var encoded [][]byte
	for _, c := range commands {
		b, err := encodeCommand(&c)
		if err != nil {
			t.Fatal(err)
		}
		encoded = append(encoded, b)
	}
	r, ok := f.Apply(&raft.Log{Index: index, Term: term, Data: encodeEntry(encoded)}).([]result)
	if !ok {
		t.Fatalf("halted: %v", f.failed())
	}
	return r
}

func compare(t *rapid.T, what string, got, want any) {
	if g, w := show(got), show(want); g != w {
		t.Fatalf("%s:\n got %s\nwant %s", what, g, w)
	}
}

// show prints a value as it is encoded: nil and empty slices are the same.
func show(v any) string {
	switch v := v.(type) {
	case []result:
		var b strings.Builder
		for _, r := range v {
			fmt.Fprintf(&b, "{%d %v %d %v %s} ", r.Code, r.Txn.Succeeded, r.Txn.Revision, r.Txn.Revisions, show(r.Txn.Current))
		}
		return b.String()
	case []*KV:
		var b strings.Builder
		for _, kv := range v {
			if kv == nil {
				b.WriteString("- ")
			} else {
				fmt.Fprintf(&b, "%s ", show(*kv))
			}
		}
		return b.String()
	case KV:
		return fmt.Sprintf("%s=%q@%d/%d/%d/%d", v.Key, v.Value, v.CreateRevision, v.ModRevision, v.Version, v.ExpiresUnix)
	case []KV:
		var b strings.Builder
		for _, kv := range v {
			b.WriteString(show(kv) + " ")
		}
		return b.String()
	}
	return fmt.Sprint(v)
}

// reread passes the state through a snapshot; history begins anew.
func reread(t *rapid.T, f *fsm) *fsm {
	var b bytes.Buffer
	if err := writeSnapshot(&b, f.current.Load()); err != nil {
		t.Fatal(err)
	}
	again := newFSM(f.log, f.history.limit)
	if err := again.Restore(io.NopCloser(&b)); err != nil {
		t.Fatal(err)
	}
	if got, want := again.current.Load().digest(), f.current.Load().digest(); got != want {
		t.Fatalf("digest %016x after a snapshot, %016x before", got, want)
	}
	if got, want := again.current.Load().expiry.Len(), f.current.Load().expiry.Len(); got != want {
		t.Fatalf("%d keys that expire after a snapshot, %d before", got, want)
	}
	return again
}

func checkState(t *rapid.T, f *fsm, m *model) {
	st := f.current.Load()
	if err := st.scrub(func(int) error { return nil }); err != nil {
		t.Fatal(err)
	}
	for rev := uint64(0); rev <= m.revision; rev++ {
		v, err := f.viewAt(rev)
		if rev < f.floor() {
			if !errors.Is(err, ErrCompacted) {
				t.Fatalf("revision %d, history reaches back to %d: %v", rev, f.floor(), err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		var got, want []KV
		v.Range("", "", 0, func(kv KV) bool { got = append(got, kv); return true })
		for _, key := range slices.Sorted(maps.Keys(m.past[rev])) {
			want = append(want, m.past[rev][key])
		}
		compare(t, fmt.Sprintf("state at %d", rev), got, want)
	}
	events, through, err := f.history.after("a", f.floor())
	if err != nil || through != st.revision {
		t.Fatalf("events through %d of %d: %v", through, st.revision, err)
	}
	for _, e := range m.events[f.floor()-firstRevision:] {
		if !strings.HasPrefix(e.KV.Key, "a") {
			continue
		}
		if len(events) == 0 {
			t.Fatalf("event %d is missing", e.Revision())
		}
		got := events[0]
		events = events[1:]
		if show(got.KV) != show(e.KV) || got.Deleted != e.Deleted || show([]*KV{got.Prev}) != show([]*KV{e.Prev}) {
			t.Fatalf("event: got %+v, want %+v", got, e)
		}
	}
	expiring := 0
	for _, kv := range m.keys {
		if kv.ExpiresUnix != 0 {
			expiring++
		}
	}
	if got := st.expiry.Len(); got != expiring {
		t.Fatalf("%d keys are to expire, want %d", got, expiring)
	}
}

// Old states are made by undoing events from kept roots; the ring stays within its limit.
func TestHistoryIsBounded(t *testing.T) {
	f := newFSM(slog.New(slog.DiscardHandler), 1000*(eventOverhead+20))
	rapid.Check(t, func(t *rapid.T) {
		if f.current.Load().index == 0 {
			applyEntry(t, f, 1, 1, command{Kind: kindOpen, Node: "a"})
		}
		st := f.current.Load()
		for i := range uint64(200) {
			n := st.index + 1 + i
			applyEntry(t, f, n, 1, command{Kind: kindTxn, Session: 1, Sequence: n, Floor: n,
				Ops: []operation{{Kind: OpPut, Key: "k", Value: fmt.Appendf(nil, "%d", st.revision+1+i)}}})
		}
		h := &f.history
		if h.bytes > h.limit {
			t.Fatalf("%d bytes of history, the limit is %d", h.bytes, h.limit)
		}
		if n := len(h.roots); n > len(h.events)/checkpointEvery+2 {
			t.Fatalf("%d roots for %d events", n, len(h.events))
		}
		at := rapid.Uint64Range(max(firstRevision+1, h.floor), h.top()).Draw(t, "revision")
		v, err := f.viewAt(at)
		if err != nil {
			t.Fatal(err)
		}
		if kv, _ := v.Get("k"); string(kv.Value) != fmt.Sprint(at) {
			t.Fatalf("at %d the value was %q", at, kv.Value)
		}
	})
}

func TestSessions(t *testing.T) {
	s := newState()
	run := func(c command) result {
		next, r, _ := s.apply(s.index+1, 1, []command{c})
		s = next
		return r[0]
	}
	txn := func(session, seq, floor uint64) command {
		return command{Kind: kindTxn, Session: session, Sequence: seq, Floor: floor, Ops: []operation{{Kind: OpPut, Key: "k"}}}
	}
	id := run(command{Kind: kindOpen, Node: "n", Incarnation: "1"}).Session
	for _, step := range []struct {
		name     string
		command  command
		code     resultCode
		revision uint64
	}{
		{"first", txn(id, 1, 1), codeDone, 2},
		{"retry", txn(id, 1, 1), codeDone, 2},
		{"overtakes", txn(id, 3, 1), codeDone, 3},
		{"floor rises", txn(id, 4, 3), codeDone, 4},
		{"retry above the floor", txn(id, 3, 3), codeDone, 3},
		{"late copy below the floor", txn(id, 2, 1), codeBelowFloor, 0},
		{"unknown session", txn(99, 1, 1), codeUnknownSession, 0},
		{"reopen by the same process", command{Kind: kindOpen, Node: "n", Incarnation: "1"}, codeDone, 0},
		{"the older session lives on", txn(id, 5, 5), codeDone, 5},
		{"a new process", command{Kind: kindOpen, Node: "n", Incarnation: "2"}, codeDone, 0},
		{"ends it", txn(id, 6, 5), codeUnknownSession, 0},
		{"expire", command{Kind: kindExpire, Node: "n"}, codeDone, 5},
	} {
		if r := run(step.command); r.Code != step.code || r.Txn.Revision != step.revision {
			t.Fatalf("%s: code %d at revision %d, expected %d at %d", step.name, r.Code, r.Txn.Revision, step.code, step.revision)
		}
	}
	if n := s.open.Len() + s.results.Len(); n != 0 {
		t.Errorf("%d sessions and results are left", n)
	}
}

func TestUnreadableEntryHaltsBeforeIt(t *testing.T) {
	good, err := encodeCommand(&command{Kind: kindOpen, Node: "n"})
	if err != nil {
		t.Fatal(err)
	}
	damaged := encodeEntry([][]byte{good})
	damaged[len(damaged)-1] ^= 1
	for name, entry := range map[string][]byte{"newer": FutureEntry(), "damaged": damaged, "short": damaged[:3]} {
		f := newFSM(slog.New(slog.DiscardHandler), 1<<20)
		f.Apply(&raft.Log{Index: 1, Term: 1, Data: encodeEntry([][]byte{good})})
		f.Apply(&raft.Log{Index: 2, Term: 1, Data: entry})
		f.Apply(&raft.Log{Index: 3, Term: 1, Data: encodeEntry([][]byte{good})})
		if err := f.failed(); !errors.Is(err, ErrHalted) || !strings.Contains(err.Error(), "log entry 2") {
			t.Errorf("%s: %v", name, err)
		}
		if got := f.current.Load().index; got != 1 {
			t.Errorf("%s: applied up to %d", name, got)
		}
		if _, err := f.Snapshot(); err == nil {
			t.Errorf("%s: a halted replica lets Raft drop its log", name)
		}
	}
}

func FuzzDecodeEntry(f *testing.F) {
	c, err := encodeCommand(&command{Kind: kindTxn, Session: 1, Sequence: 2, Compares: []Compare{{"a", 1}},
		Ops: []operation{{Kind: OpPut, Key: "a", Value: []byte("v")}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(c)
	f.Add(FutureEntry())
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := decodeEntry(b, CommandVersion); err != nil && len(b) > entryHeader && b[0] == entryFormat {
			// The checksum keeps most input out: look behind it, too.
			_, _ = decodeEntry(encodeEntry([][]byte{b}), CommandVersion)
		}
		c, err := decodeCommand(b, CommandVersion)
		if err != nil {
			return
		}
		// What decodes can be applied without a panic.
		newState().apply(1, 1, []command{c})
	})
}

func FuzzReadSnapshot(f *testing.F) {
	var b bytes.Buffer
	s, _, _ := newState().apply(1, 1, []command{{Kind: kindOpen, Node: "n"},
		{Kind: kindTxn, Session: 1, Sequence: 1, Ops: []operation{{Kind: OpPut, Key: "a", Value: []byte("v"), ExpiresUnix: 3}}}})
	if err := writeSnapshot(&b, s); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add(b.Bytes()[:b.Len()/2])
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = readSnapshot(bytes.NewReader(b)) })
}
