package raftstore

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/hashicorp/raft"
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

// A transfer that Raft was asked for as it shut down is not answered: who waits for it does
// not keep the store from being closed.
func TestForgottenTransferEndsWithTheStore(t *testing.T) {
	inSimCluster(t, 3, func(t *testing.T, c *simCluster) {
		leader := c.leader()
		f := make(forgotten)
		defer close(f)
		asked, ended := make(chan struct{}), make(chan error, 1)
		c.running.Go(func() {
			ended <- leader.at().store.transferLeadership(func() raft.Future { close(asked); return f })
		})
		<-asked
		c.crash(leader, false)
		select {
		case err := <-ended:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%v", err)
			}
		case <-time.After(time.Minute):
			t.Error("it waits for a transfer that is never answered")
		}
	})
}
