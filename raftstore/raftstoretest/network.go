// Package raftstoretest makes stores for tests: a single one, or a cluster over
// an in-memory network whose links can be cut. Only tests import it.
//
// A Network and a Cluster are safe for use by any number of goroutines.
package raftstoretest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"kontiki/raftstore"
)

// Network joins nodes by pipes in memory.
type Network struct {
	mu        sync.Mutex
	listeners map[string]*listener // by node id and protocol
	cut       map[[2]string]bool
	conns     map[*link]struct{}
}

type link struct {
	from, to string
	a, b     net.Conn
}

// NewNetwork makes a network without nodes.
func NewNetwork() *Network {
	return &Network{listeners: make(map[string]*listener), cut: make(map[[2]string]bool), conns: make(map[*link]struct{})}
}

// Streams attaches a node to the network for one protocol. A later call for the
// same node and protocol takes the earlier one's place.
func (n *Network) Streams(nodeID, protocol string) raftstore.Streams {
	l := &listener{network: n, nodeID: nodeID, protocol: protocol, conns: make(chan net.Conn), closed: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listeners[nodeID+"/"+protocol] = l
	return l
}

// Cut breaks the streams between two nodes and refuses new ones.
func (n *Network) Cut(a, b string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[pair(a, b)] = true
	for l := range n.conns {
		if pair(l.from, l.to) == pair(a, b) {
			l.a.Close()
			l.b.Close()
			delete(n.conns, l)
		}
	}
}

// Heal mends what Cut has cut.
func (n *Network) Heal(a, b string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.cut, pair(a, b))
}

func pair(a, b string) [2]string { return [2]string{min(a, b), max(a, b)} }

type listener struct {
	network          *Network
	nodeID, protocol string
	conns            chan net.Conn
	closed           chan struct{}
	once             sync.Once
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close also breaks the node's streams of this protocol, as the end of a process does.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *listener) Addr() net.Addr { return addr(l.nodeID) }

type addr string

func (addr) Network() string  { return "memory" }
func (a addr) String() string { return string(a) }

// conn forgets its link when either end is closed.
type conn struct {
	net.Conn
	forget func()
}

func (c *conn) Close() error {
	c.forget()
	return c.Conn.Close()
}

func (l *listener) Dial(ctx context.Context, to string) (net.Conn, error) {
	n := l.network
	n.mu.Lock()
	target, isCut := n.listeners[to+"/"+l.protocol], n.cut[pair(l.nodeID, to)]
	if target == nil || isCut {
		n.mu.Unlock()
		return nil, fmt.Errorf("node %s is not in reach", to)
	}
	a, b := net.Pipe()
	k := &link{l.nodeID, to, a, b}
	n.conns[k] = struct{}{}
	n.mu.Unlock()
	forget := func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.conns, k)
	}
	fail := func(err error) (net.Conn, error) {
		forget()
		return nil, errors.Join(err, a.Close(), b.Close())
	}
	select {
	case target.conns <- &conn{b, forget}:
		return &conn{a, forget}, nil
	case <-target.closed:
		return fail(fmt.Errorf("node %s is down", to))
	case <-ctx.Done():
		return fail(context.Cause(ctx))
	}
}
