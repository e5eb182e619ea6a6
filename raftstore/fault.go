//go:build faultinject

package raftstore

import "slices"

// This file is in no product. Builds with the tag faultinject can break a replica, so that
// tests of whole nodes can look on as it is found out and refilled.

// BreakMemory changes a key's value in this replica's memory, as a broken bit does; with
// diverge as if it had been written so, here alone.
func (s *Store) BreakMemory(key string, diverge bool) {
	s.fsm.tamper(key, func(st *state, was, is *KV) {
		if diverge {
			is.hash = hashKV(is)
			st.contents += is.hash - was.hash
		}
	})
}

// tamper changes a key's value in this replica's memory.
func (f *fsm) tamper(key string, account func(st *state, was, is *KV)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	st := *f.current.Load()
	was, ok := st.keys.Get([]byte(key))
	if !ok || len(was.Value) == 0 {
		panic("raftstore: there is no value to change at " + key)
	}
	is := *was
	is.Value = slices.Clone(was.Value)
	is.Value[0] ^= 0x40
	account(&st, was, &is)
	st.keys, _, _ = st.keys.Insert([]byte(key), &is)
	f.current.Store(&st)
	f.recent.add(&st)
}
