package raftstore

import (
	"context"
	"errors"
	"testing"
	"time"
)

// A leader whose office nobody took does not try again in its term, goes on as the
// leader, and may hand over in a later one.
func TestFailedTransferIsNotRepeated(t *testing.T) {
	inSimCluster(t, 3, func(t *testing.T, c *simCluster) {
		leader := c.leader()
		s := leader.at().store
		peer := c.nodes[0]
		if peer == leader {
			peer = c.nodes[1]
		}
		put := func() error {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			_, err := s.Apply(ctx, Txn{Ops: []Op{{Kind: OpPut, Key: "k"}}})
			return err
		}
		c.net.shift(func() { c.net.paused[peer.id] = true })
		for range 5 { // so that the peer has something to catch up with
			if err := put(); err != nil {
				t.Error(err)
			}
		}
		if err := s.TransferTo(peer.id); err == nil {
			t.Error("a peer that is paused took the leadership")
		}
		if err := s.TransferTo(peer.id); !errors.Is(err, errTransferFailed) {
			t.Errorf("a second transfer in a term: %v", err)
		}
		c.pass(6 * time.Second) // Raft's own request to the peer ends
		if err := put(); err != nil {
			t.Errorf("a write after the transfer has failed: %v", err)
		}
		c.net.shift(func() { clear(c.net.paused) })
		s.transferFailed-- // as in the next term
		if err := s.TransferTo(peer.id); err != nil {
			t.Errorf("a transfer in another term: %v", err)
		}
	})
}
