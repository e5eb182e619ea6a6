package raftstore

import (
	"cmp"
	"log/slog"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// An idle leader sends each follower ten heartbeats a second, and says about once what the commit
// index is. Every message is one write, and each is answered.
func TestIdleClusterIsQuiet(t *testing.T) {
	inSimCluster(t, 3, func(t *testing.T, c *simCluster) {
		c.pass(time.Minute)
		writes := func() int {
			c.net.mu.Lock()
			defer c.net.mu.Unlock()
			return c.net.writes
		}
		const seconds = 100
		before := writes()
		c.pass(seconds * time.Second)
		const most = 12 * 2 * 2 * seconds
		if n := writes() - before; n > most {
			t.Errorf("%d messages in %d s between a leader and two followers, %d are enough", n, seconds, most)
		}
	})
}

// agreeable is a peer behind a cable that says what it is told to say.
type agreeable struct {
	asked   int // to append, beside heartbeats
	refuses bool
	silent  chan struct{} // not nil: heartbeats are not answered before it is closed
}

func (a *agreeable) answer(rpc raft.RPC) {
	a.asked++
	rpc.Respond(&raft.AppendEntriesResponse{Term: 1, Success: !a.refuses}, nil)
}

func (a *agreeable) heartbeat(rpc raft.RPC) {
	if a.silent != nil {
		<-a.silent
	}
	rpc.Respond(&raft.AppendEntriesResponse{Term: 1, Success: !a.refuses}, nil)
}

// A peer is asked to append nothing only where that may tell it something.
func TestWhatPeersKnowIsNotRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newRaftLogger(slog.New(slog.DiscardHandler))
		c := &cable{conns: make(chan net.Conn), closed: make(chan struct{})}
		inner := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{Stream: c, MaxPool: 3, Timeout: transportTimeout, Logger: log})
		closing := make(chan struct{})
		tr := &transport{NetworkTransport: inner, election: &election{closing: closing}, heartbeatPace: time.Millisecond, peers: map[raft.ServerID]*peerRecord{}}
		var peer agreeable
		inner.SetHeartbeatHandler(peer.heartbeat)
		go func() {
			for {
				select {
				case rpc := <-inner.Consumer():
					peer.answer(rpc)
				case <-closing:
					return
				}
			}
		}()
		open := func() raft.AppendPipeline {
			p, err := tr.AppendEntriesPipeline("peer", "peer")
			if err != nil {
				t.Fatal(err)
			}
			go func() { // as Raft, which takes all answers
				for {
					select {
					case <-p.Consumer():
					case <-closing:
						return
					}
				}
			}()
			return p
		}
		pipeline := open()
		beat := func() error {
			return tr.AppendEntries("peer", "peer", &raft.AppendEntriesRequest{RPCHeader: raft.RPCHeader{Addr: []byte("leader")}, Term: 1}, &raft.AppendEntriesResponse{})
		}
		send := func(what string, sent bool, req raft.AppendEntriesRequest) {
			t.Helper()
			req.Term, req.PrevLogEntry, req.PrevLogTerm = max(req.Term, 1), cmp.Or(req.PrevLogEntry, 8), 1
			before := peer.asked
			if _, err := pipeline.AppendEntries(&req, &raft.AppendEntriesResponse{}); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			time.Sleep(time.Millisecond) // until it is answered
			synctest.Wait()
			if (peer.asked > before) != sent {
				t.Errorf("%s: the peer was asked: %v", what, !sent)
			}
		}
		at := func(commit uint64) raft.AppendEntriesRequest {
			return raft.AppendEntriesRequest{LeaderCommitIndex: commit}
		}
		send("the first of all", true, at(7))
		send("the same again", false, at(7))
		send("an entry", true, raft.AppendEntriesRequest{LeaderCommitIndex: 7, Entries: []*raft.Log{{Index: 9, Term: 1}}})
		send("what came with the entry", false, at(7))
		send("a later commit", true, at(8))
		send("a commit beyond what the peer was shown to hold", true, at(9))
		send("the same once more", true, at(9))
		send("what it holds", false, at(8))
		send("that once more", false, at(8))
		send("what follows entries that it has not said yes to", true, raft.AppendEntriesRequest{PrevLogEntry: 12, LeaderCommitIndex: 8})
		send("the same, once it has", false, raft.AppendEntriesRequest{PrevLogEntry: 12, LeaderCommitIndex: 8})
		send("another term", true, raft.AppendEntriesRequest{Term: 2, LeaderCommitIndex: 8})
		send("the first term", true, at(8))

		time.Sleep(tellAgain)
		send("after a while", true, at(8))
		send("once is enough then", false, at(8))

		peer.silent = make(chan struct{})
		unanswered := make(chan error, 1)
		go func() { unanswered <- beat() }()
		time.Sleep(2 * time.Millisecond)
		send("while a heartbeat is not answered", true, at(8))
		send("and as long as it is not", true, at(8))
		close(peer.silent)
		if err := <-unanswered; err != nil {
			t.Error(err)
		}
		send("after the answer", false, at(8))

		peer.refuses = true
		if err := beat(); err != nil {
			t.Error(err)
		}
		peer.refuses = false
		time.Sleep(time.Millisecond)
		send("after a heartbeat that was refused", true, at(8))
		send("after that", false, at(8))

		c.cut.Store(true)
		inner.CloseStreams()
		if err := beat(); err == nil {
			t.Error("a heartbeat went over a cut cable")
		}
		c.cut.Store(false)
		pipeline.Close()
		pipeline = open()
		send("after a heartbeat that failed", true, at(8))

		pipeline.Close()
		close(closing)
		inner.Close()
		inner.CloseStreams()
		time.Sleep(time.Minute)
	})
}
