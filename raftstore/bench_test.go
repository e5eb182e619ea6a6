package raftstore

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"

	"github.com/hashicorp/raft"
)

// entries makes log entries of batches of writes over some keys, as one proposer
// with many writers makes them.
func entries(b *testing.B, n, batch int) []*raft.Log {
	b.Helper()
	out := make([]*raft.Log, 0, n+1)
	add := func(commands ...command) {
		var encoded [][]byte
		for _, c := range commands {
			e, err := encodeCommand(&c)
			if err != nil {
				b.Fatal(err)
			}
			encoded = append(encoded, e)
		}
		out = append(out, &raft.Log{Index: uint64(len(out) + 1), Term: 1, Data: encodeEntry(encoded)})
	}
	add(command{Kind: kindOpen, Node: "n"})
	value, sequence := make([]byte, 1024), uint64(0)
	for range n {
		var commands []command
		for range batch {
			sequence++
			commands = append(commands, command{Kind: kindTxn, Session: 1, Sequence: sequence, Floor: max(sequence, 65) - 64,
				Ops: []operation{{Kind: OpPut, Key: fmt.Sprintf("/registry/pods/default/pod-%d", sequence%10_000), Value: value}}})
		}
		add(commands...)
	}
	return out
}

func BenchmarkApply(b *testing.B) {
	for _, batch := range []int{1, 64} {
		for _, watches := range []int{0, 1000} {
			b.Run(fmt.Sprintf("batch=%d/watches=%d", batch, watches), func(b *testing.B) {
				log := entries(b, b.N, batch)
				f := newFSM(slog.New(slog.DiscardHandler), defaultEventBytes)
				s := &Store{fsm: f, closing: make(chan struct{})}
				ctx, cancel := context.WithCancel(b.Context())
				var wg sync.WaitGroup
				for i := range watches {
					w, err := s.Watch(fmt.Sprintf("/registry/kind-%d/", i), 1)
					if err != nil {
						b.Fatal(err)
					}
					wg.Go(func() {
						defer w.Close()
						for {
							if _, _, err := w.Next(ctx); err != nil {
								return
							}
						}
					})
				}
				b.ReportAllocs()
				b.ResetTimer()
				for _, l := range log {
					f.Apply(l)
				}
				b.StopTimer()
				cancel()
				wg.Wait()
			})
		}
	}
}
