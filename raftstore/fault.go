package raftstore

import "slices"

// BreakMemory changes a key's value in this replica's memory, as a broken bit does; with
// diverge as if it had been written so, here alone. Tests look on as that is found out and
// the replica is refilled. It is a function that no product calls, so that the linker leaves
// it out: programs that can be broken are made in cmd/kontiki, by the tag faultinject.
func BreakMemory(s *Store, key string, diverge bool) {
	f := s.fsm
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
	if diverge {
		is.hash = hashKV(&is)
		st.contents += is.hash - was.hash
	}
	st.keys, _, _ = st.keys.Insert([]byte(key), &is)
	f.current.Store(&st)
	f.recent.add(&st)
}
