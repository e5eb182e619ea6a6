package raftstore

import "testing"

// A batch takes no more than its bounds; what does not fit goes first into the next.
func TestBatchBounds(t *testing.T) {
	of := func(size int) proposal { return proposal{command: make([]byte, size)} }
	var b batch
	for range batchCommands {
		if b.full() {
			t.Fatalf("full with %d commands", len(b.proposals))
		}
		b.add(of(10))
	}
	if !b.full() {
		t.Fatal("not full")
	}
	if n := len(b.take()); n != batchCommands || len(b.proposals) != 0 {
		t.Errorf("%d leave, %d stay", n, len(b.proposals))
	}
	b.add(of(batchBytes - 5))
	b.add(of(10))
	if n := len(b.take()); n != 1 || len(b.proposals) != 1 || b.bytes != 10 {
		t.Errorf("%d leave, %d stay with %d bytes", n, len(b.proposals), b.bytes)
	}
	b = batch{}
	b.add(of(2 * batchBytes))
	if n := len(b.take()); n != 1 || len(b.proposals) != 0 {
		t.Errorf("a single large one: %d leave, %d stay", n, len(b.proposals))
	}
}
