package raftstore

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/goleak"
)

// TestPipelineThatFailsLetsGo sends as Raft does that has stopped to take answers: to a
// peer that refuses everything.
func TestPipelineThatFailsLetsGo(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	log := newRaftLogger(slog.New(slog.DiscardHandler))
	open := func() *raft.NetworkTransport {
		n, err := raft.NewTCPTransportWithLogger("127.0.0.1:0", nil, 2, 5*time.Second, log)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	peer := open()
	done := make(chan struct{})
	stop := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case rpc := <-peer.Consumer():
				rpc.Respond(&raft.AppendEntriesResponse{Term: 1}, nil)
			case <-stop:
				return
			}
		}
	}()
	own := open()
	defer func() {
		own.Close()
		close(stop)
		<-done
		peer.Close()
		peer.CloseStreams()
	}()
	tr := &transport{NetworkTransport: own, peers: map[raft.ServerID]*peerRecord{}}
	p, err := tr.AppendEntriesPipeline("peer", peer.LocalAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	taken := make(chan struct{})
	go func() { // Raft's decoder, which ends with the first refusal
		defer close(taken)
		<-p.Consumer()
	}()
	sent := make(chan error)
	go func() {
		for range 10 {
			if _, err := p.AppendEntries(&raft.AppendEntriesRequest{Term: 1}, &raft.AppendEntriesResponse{}); err != nil {
				sent <- err
				return
			}
		}
		sent <- errors.New("ten requests were sent after a refusal")
	}()
	select {
	case err := <-sent:
		t.Logf("the sender was told: %v", err)
	case <-time.After(20 * time.Second):
		t.Error("a sender waits for an answer to be taken that nobody takes")
		p.Close()
		<-sent
	}
	<-taken
}
