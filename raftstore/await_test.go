package raftstore

import (
	"errors"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// cable is a stream layer to one peer, through which nothing goes while it is cut.
type cable struct {
	cut    atomic.Bool
	conns  chan net.Conn
	closed chan struct{}
}

func (c *cable) Accept() (net.Conn, error) {
	select {
	case conn := <-c.conns:
		return conn, nil
	case <-c.closed:
		return nil, net.ErrClosed
	}
}

func (c *cable) Close() error   { close(c.closed); return nil }
func (c *cable) Addr() net.Addr { return nodeAddr("peer") }

func (c *cable) Dial(raft.ServerAddress, time.Duration) (net.Conn, error) {
	if c.cut.Load() {
		time.Sleep(dialTimeout)
		return nil, errors.New("nothing answers")
	}
	near, far := net.Pipe()
	c.conns <- far
	return near, nil
}

// TestPeerBackInReachIsFed cuts a peer off for a while and looks at what Raft would send
// to it: one try that fails, and after that none before the peer is back, so that Raft's
// pause between tries does not grow.
func TestPeerBackInReachIsFed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newRaftLogger(slog.New(slog.DiscardHandler))
		c := &cable{conns: make(chan net.Conn), closed: make(chan struct{})}
		inner := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{Stream: c, MaxPool: 3, Timeout: transportTimeout, Logger: log})
		closing := make(chan struct{})
		tr := &transport{NetworkTransport: inner, election: &election{closing: closing}, heartbeatPace: 100 * time.Millisecond, peers: map[raft.ServerID]*peerRecord{}}
		go func() { // the peer takes all
			for {
				select {
				case rpc := <-inner.Consumer():
					rpc.Respond(&raft.AppendEntriesResponse{Term: 1, Success: true}, nil)
				case <-closing:
					return
				}
			}
		}()
		beating := make(chan struct{})
		go func() { // as Raft's loop of heartbeats
			for {
				select {
				case <-beating:
					return
				default:
				}
				if tr.AppendEntries("peer", "peer", &raft.AppendEntriesRequest{Term: 1}, &raft.AppendEntriesResponse{}) != nil {
					time.Sleep(150 * time.Millisecond)
				}
			}
		}()
		send := func(term uint64) error {
			return tr.AppendEntries("peer", "peer", &raft.AppendEntriesRequest{Term: term, PrevLogEntry: 7, PrevLogTerm: 1}, &raft.AppendEntriesResponse{})
		}
		took := func(what string, most time.Duration, ok bool, send func() error) {
			t.Helper()
			began := time.Now()
			err := send()
			if d := time.Since(began); (err == nil) != ok || d > most {
				t.Errorf("%s took %v: %v", what, d, err)
			}
		}
		c.cut.Store(true)
		inner.CloseStreams()
		time.Sleep(10 * time.Second)
		done := make(chan error, 1)
		go func() { done <- send(1) }()
		time.Sleep(10 * time.Minute)
		select {
		case err := <-done:
			t.Fatalf("a request was sent to a peer that is not in reach: %v", err)
		default:
		}
		took("a request of a term that has passed", dialTimeout, false, func() error { return send(0) })
		c.cut.Store(false)
		took("the request that waited", dialTimeout+500*time.Millisecond, true, func() error { return <-done })

		c.cut.Store(true)
		inner.CloseStreams()
		close(beating) // the peer was removed, or this node leads no more
		time.Sleep(time.Second)
		took("the first request", dialTimeout, false, func() error { return send(1) })
		took("one without heartbeats", awaitBeats+dialTimeout, false, func() error { return send(1) })

		go func() { done <- send(1) }()
		synctest.Wait()
		close(closing)
		took("one while the store closes", dialTimeout, false, func() error { return <-done })
		inner.Close()
		time.Sleep(time.Minute)
	})
}
