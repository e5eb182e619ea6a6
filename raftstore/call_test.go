package raftstore

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// deafPeers are streams to a node that says hello, and then takes nothing.
type deafPeers struct{ dialed int }

func (d *deafPeers) Accept() (net.Conn, error) { return nil, net.ErrClosed }
func (d *deafPeers) Close() error              { return nil }
func (d *deafPeers) Addr() net.Addr            { return nodeAddr("a") }

func (d *deafPeers) Dial(context.Context, string) (net.Conn, error) {
	d.dialed++
	near, far := net.Pipe()
	peer := greeter{cluster: "c", nodeID: "b", log: slog.New(slog.DiscardHandler)}
	go func() {
		if _, err := peer.greet(far); err != nil {
			far.Close()
		}
	}()
	return near, nil
}

// A path that takes nothing more holds no call longer than its caller waits: neither the one
// whose frame it has begun to take, nor those behind it. The next call has a new stream.
func TestCallsEndWithTheirCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		streams := &deafPeers{}
		c := &caller{greeter: greeter{streams: streams, cluster: "c", nodeID: "a", log: slog.New(slog.DiscardHandler)}, peers: make(map[string]*callStream)}
		defer c.close()
		enough := errors.New("the leader is another")
		call := func(waits time.Duration) (took <-chan time.Duration, failed <-chan error) {
			t, e := make(chan time.Duration, 1), make(chan error, 1)
			go func() {
				ctx, cancel := context.WithTimeoutCause(context.Background(), waits, enough)
				defer cancel()
				began := time.Now()
				err := c.call(ctx, "b", callPropose, []byte("command"), new(result))
				t <- time.Since(began)
				e <- err
			}()
			synctest.Wait()
			return t, e
		}
		wrote, failedWrite := call(300 * time.Millisecond)
		waited, failedWait := call(100 * time.Millisecond)
		if took, err := <-waited, <-failedWait; took != 100*time.Millisecond || !errors.Is(err, enough) || !errors.Is(err, errNotProposed) {
			t.Errorf("behind another call it took %v: %v", took, err)
		}
		if took, err := <-wrote, <-failedWrite; took != 300*time.Millisecond || !errors.Is(err, enough) || errors.Is(err, errNotProposed) {
			t.Errorf("in the middle of its frame it took %v: %v", took, err)
		}
		again, failedAgain := call(100 * time.Millisecond)
		if took, err := <-again, <-failedAgain; took != 100*time.Millisecond || !errors.Is(err, enough) || streams.dialed != 2 {
			t.Errorf("the next one took %v over stream %d: %v", took, streams.dialed, err)
		}
	})
}
