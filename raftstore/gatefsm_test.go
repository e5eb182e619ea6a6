package raftstore

import (
	"errors"
	"log/slog"
	"testing"

	"github.com/hashicorp/raft"
)

// What a deposed leader had on its way does not open the gate: the next one may have let
// in a member that was not asked.
func TestGateIsFencedByTerm(t *testing.T) {
	s := newState()
	s, r, _ := s.apply(1, 2, []command{{Kind: kindGate, Gate: 2, Term: 1}})
	if r[0].Code != codeFenced || s.gate != firstVersion {
		t.Fatalf("code %d, gate at %d", r[0].Code, s.gate)
	}
	s, r, _ = s.apply(2, 2, []command{{Kind: kindGate, Gate: 3, Term: 2}, {Kind: kindGate, Gate: 2, Term: 2}})
	if r[0].Code != codeDone || r[1].Code != codeDone || s.gate != 3 {
		t.Errorf("codes %d and %d, gate at %d; it never goes back", r[0].Code, r[1].Code, s.gate)
	}
}

// A program halts at the command that opens the gate beyond it, not at some later one.
func TestGateHaltsOldPrograms(t *testing.T) {
	open, err := encodeCommand(&command{Kind: kindGate, Gate: 2, Term: 1})
	if err != nil {
		t.Fatal(err)
	}
	for knows, halts := range map[uint8]bool{1: true, 2: false} {
		f := newFSM(slog.New(slog.DiscardHandler), 1<<20)
		f.knows = knows
		f.Apply(&raft.Log{Index: 1, Term: 1, Data: encodeEntry([][]byte{open})})
		if err := f.failed(); errors.Is(err, errTooOld) != halts {
			t.Errorf("a program that knows %d: %v", knows, err)
		}
	}
}

func TestEncodedVersions(t *testing.T) {
	b, err := encodeCommandIn(2, &command{Kind: kindOpen, Node: "n"})
	if err != nil {
		t.Fatal(err)
	}
	for knows, want := range map[uint8]error{1: errTooOld, 2: nil, 3: nil} {
		if _, err := decodeCommand(b, knows); !errors.Is(err, want) {
			t.Errorf("version 2 by a program that knows %d: %v", knows, err)
		}
	}
	if _, err := decodeCommand(append([]byte{0}, b[1:]...), 3); err == nil {
		t.Error("version 0 is read")
	}
}
