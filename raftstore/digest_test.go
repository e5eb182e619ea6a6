package raftstore

import (
	"bytes"
	"errors"
	"log/slog"
	"reflect"
	"testing"
)

// filled is a state with something of each kind in it.
func filled(t *testing.T) *state {
	t.Helper()
	f := newFSM(slog.New(slog.DiscardHandler), defaultEventBytes)
	var encoded [][]byte
	for _, c := range []command{
		{Kind: kindOpen, Node: "n", Incarnation: "i"},
		{Kind: kindTxn, Session: 1, Sequence: 1, Ops: []operation{{Kind: OpPut, Key: "a", Value: []byte("1")}}},
		{Kind: kindTxn, Session: 1, Sequence: 2, Ops: []operation{{Kind: OpPut, Key: "b", Value: []byte("2"), ExpiresUnix: 99}}},
		{Kind: kindTxn, Session: 1, Sequence: 3, Compares: []Compare{{Key: "a"}, {Key: "none", ModRevision: 7}}},
		{Kind: kindCompact, Revision: 2},
	} {
		e, err := encodeCommand(&c)
		if err != nil {
			t.Fatal(err)
		}
		encoded = append(encoded, e)
	}
	f.Apply(logOf(1, encoded...))
	return f.current.Load()
}

// Each thing that the outcome of an entry may depend on changes the digest.
func TestDigestSeesEverything(t *testing.T) {
	right := filled(t)
	for name, change := range map[string]func(s *state){
		"revision":    func(s *state) { s.revision++ },
		"compacted":   func(s *state) { s.compacted++ },
		"index":       func(s *state) { s.index++ },
		"term":        func(s *state) { s.term++ },
		"lastSession": func(s *state) { s.lastSession++ },
		"contents":    func(s *state) { s.contents++ },
	} {
		changed := *right
		change(&changed)
		if changed.digest() == right.digest() {
			t.Errorf("%s is not in the digest", name)
		}
	}
}

// The scrub finds each change of an entry that was not written.
func TestScrubSeesEverything(t *testing.T) {
	right := filled(t)
	if err := right.scrub(func(int) error { return nil }); err != nil {
		t.Fatal(err)
	}
	kv := func(change func(*KV)) func(*state) {
		return func(s *state) {
			was, _ := s.keys.Get([]byte("b"))
			is := *was
			is.Value = bytes.Clone(is.Value)
			change(&is)
			s.keys, _, _ = s.keys.Insert([]byte("b"), &is)
		}
	}
	res := func(change func(*result)) func(*state) {
		return func(s *state) {
			key := resultKey(1, 3)
			r, _ := s.results.Get(key)
			change(&r)
			s.results, _, _ = s.results.Insert(key, r)
		}
	}
	ses := func(change func(*session)) func(*state) {
		return func(s *state) {
			v, _ := s.open.Get(sessionKey(1))
			change(&v)
			s.open, _, _ = s.open.Insert(sessionKey(1), v)
		}
	}
	for name, change := range map[string]func(*state){
		"value":           kv(func(kv *KV) { kv.Value[0] ^= 1 }),
		"key":             kv(func(kv *KV) { kv.Key = "c" }),
		"create revision": kv(func(kv *KV) { kv.CreateRevision++ }),
		"mod revision":    kv(func(kv *KV) { kv.ModRevision++ }),
		"version":         kv(func(kv *KV) { kv.Version++ }),
		"expiry of a key": kv(func(kv *KV) { kv.ExpiresUnix++ }),
		"expiry":          func(s *state) { s.expiry, _, _ = s.expiry.Insert(expiryKey(99, "b"), "a") },
		"no expiry":       func(s *state) { s.expiry, _, _ = s.expiry.Delete(expiryKey(99, "b")) },
		"no key":          func(s *state) { s.keys, _, _ = s.keys.Delete([]byte("a")) },
		"session node":    ses(func(s *session) { s.Node = "m" }),
		"incarnation":     ses(func(s *session) { s.Incarnation = "j" }),
		"floor":           ses(func(s *session) { s.Floor++ }),
		"code":            res(func(r *result) { r.Code++ }),
		"succeeded":       res(func(r *result) { r.Txn.Succeeded = !r.Txn.Succeeded }),
		"result revision": res(func(r *result) { r.Txn.Revision++ }),
		"revisions":       res(func(r *result) { r.Txn.Revisions = []uint64{0} }),
		"current":         res(func(r *result) { r.Txn.Current = []*KV{nil, nil} }),
	} {
		changed := *right
		change(&changed)
		if err := changed.scrub(func(int) error { return nil }); err == nil {
			t.Errorf("%s: the change is not seen", name)
		}
		var b bytes.Buffer
		if err := writeSnapshot(&b, &changed); name != "expiry" && name != "no expiry" && !errors.Is(err, errContents) {
			t.Errorf("%s: a snapshot is made of it: %v", name, err)
		}
	}
}

func TestJudge(t *testing.T) {
	voters := func(n int) (out []Member) {
		for i := range n {
			out = append(out, Member{ID: string(rune('a' + i)), Voter: true})
		}
		return out
	}
	for name, c := range map[string]struct {
		members []Member
		digests map[string]uint64
		wrong   string
		unclear bool
	}{
		"all agree":                   {voters(3), map[string]uint64{"a": 1, "b": 1, "c": 1}, "", false},
		"one differs":                 {voters(3), map[string]uint64{"a": 1, "b": 2, "c": 1}, "b", false},
		"one differs, one is away":    {voters(3), map[string]uint64{"a": 1, "b": 2}, "", true},
		"two differ alike":            {voters(3), map[string]uint64{"a": 1, "b": 2, "c": 2}, "a", false},
		"all differ":                  {voters(3), map[string]uint64{"a": 1, "b": 2, "c": 3}, "", true},
		"two of five":                 {voters(5), map[string]uint64{"a": 1, "b": 2, "c": 1, "d": 3, "e": 1}, "bd", false},
		"two of five, one is away":    {voters(5), map[string]uint64{"a": 1, "b": 2, "c": 1, "d": 3}, "", true},
		"one of two":                  {voters(2), map[string]uint64{"a": 1, "b": 2}, "", true},
		"alone":                       {voters(1), map[string]uint64{"a": 1}, "", false},
		"nobody answers":              {voters(3), map[string]uint64{"a": 1}, "", false},
		"a non-voter differs":         {append(voters(1), Member{ID: "n"}), map[string]uint64{"a": 1, "n": 2}, "n", false},
		"non-voters decide for two":   {append(voters(2), Member{ID: "n"}), map[string]uint64{"a": 1, "b": 2, "n": 2}, "a", false},
		"non-voters do not outvote":   {append(voters(3), Member{ID: "m"}, Member{ID: "n"}, Member{ID: "o"}, Member{ID: "p"}), map[string]uint64{"a": 1, "b": 1, "c": 2, "m": 2, "n": 2, "o": 2, "p": 2}, "cmnop", false},
		"one voter is not the voters": {append(voters(3), Member{ID: "n"}), map[string]uint64{"a": 1, "n": 2}, "", true},
	} {
		v := judge(c.members, c.digests)
		wrong := ""
		for _, id := range v.wrong {
			wrong += id
		}
		if wrong != c.wrong || v.unclear != c.unclear {
			t.Errorf("%s: wrong %q, unclear %v; want %q, %v", name, wrong, v.unclear, c.wrong, c.unclear)
		}
	}
}

// Who adds a field to what is replicated has to decide whether it belongs into the digest, and
// into scrub, snapshots and begin.
func TestDigestKnowsAllFields(t *testing.T) {
	for _, c := range []struct {
		of   reflect.Type
		want int
	}{
		{reflect.TypeFor[KV](), 7}, {reflect.TypeFor[session](), 4}, {reflect.TypeFor[result](), 3}, {reflect.TypeFor[TxnResult](), 4},
	} {
		if n := c.of.NumField(); n != c.want {
			t.Errorf("%v has %d fields, and digest.go was written for %d: hash what the next entry's outcome depends on, then count anew here", c.of, n, c.want)
		}
	}
}
