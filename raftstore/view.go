package raftstore

import (
	iradix "github.com/hashicorp/go-immutable-radix/v2"
)

// View is the contents of the store at one revision. It is immutable and may
// be kept; the zero View is empty and has no revision.
type View struct {
	keys     *iradix.Tree[*KV]
	revision uint64
}

// Revision is the revision of the last change that the view shows.
func (v View) Revision() uint64 { return v.revision }

// Get returns the key, if it exists.
func (v View) Get(key string) (KV, bool) {
	if v.keys == nil {
		return KV{}, false
	}
	kv, ok := v.keys.Get([]byte(key))
	if !ok {
		return KV{}, false
	}
	return *kv, true
}

// Range calls fn for each key with start ≤ key < end in order, until fn returns
// false or limit keys were shown. An empty end means no end, limit 0 no limit.
func (v View) Range(start, end string, limit int, fn func(KV) bool) {
	if v.keys == nil {
		return
	}
	it := v.keys.Root().Iterator()
	it.SeekLowerBound([]byte(start))
	for n := 0; limit == 0 || n < limit; n++ {
		_, kv, ok := it.Next()
		if !ok || (end != "" && kv.Key >= end) || !fn(*kv) {
			return
		}
	}
}

// Count returns the number of keys that begin with prefix. It costs a walk over them.
func (v View) Count(prefix string) int {
	n := 0
	if v.keys != nil {
		v.keys.Root().WalkPrefix([]byte(prefix), func([]byte, *KV) bool {
			n++
			return false
		})
	}
	return n
}

// PrefixEnd is the end of the range of all keys that begin with prefix, for
// Range: the smallest string greater than all of them, or "" if there is none.
func PrefixEnd(prefix string) string {
	b := []byte(prefix)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] < 0xff {
			b[i]++
			return string(b[:i+1])
		}
	}
	return ""
}
