package raftstore

import (
	"bytes"
	"log/slog"
	"testing"
)

// A session may write and end in one log entry: the snapshot that follows holds what it
// says that it holds.
func TestSessionEndsInTheEntryOfItsWrite(t *testing.T) {
	f := newFSM(slog.New(slog.DiscardHandler), 1<<20)
	put := func(sequence uint64) *command {
		return &command{Kind: kindTxn, Session: 1, Sequence: sequence, Ops: []operation{{Kind: OpPut, Key: "k"}}}
	}
	for i, entry := range [][]*command{
		{{Kind: kindOpen, Node: "n"}}, {put(1)}, {put(2)}, {put(3), {Kind: kindExpire, Node: "n"}},
	} {
		var commands [][]byte
		for _, c := range entry {
			b, err := encodeCommand(c)
			if err != nil {
				t.Fatal(err)
			}
			commands = append(commands, b)
		}
		f.Apply(logOf(uint64(i+1), commands...))
	}
	st := f.current.Load()
	if st.results.Len() != 0 || st.revision != 4 {
		t.Errorf("%d results of an ended session, revision %d", st.results.Len(), st.revision)
	}
	var b bytes.Buffer
	if err := writeSnapshot(&b, st); err != nil {
		t.Fatal(err)
	}
	if _, err := readSnapshot(&b); err != nil {
		t.Errorf("the snapshot cannot be read: %v", err)
	}
}
