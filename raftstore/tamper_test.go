//go:build !faultinject

package raftstore

import "slices"

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
