package raftstore

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// simNet joins simulated nodes. It keeps to what TCP promises and no more: bytes
// arrive in order or not at all; while a direction is cut they wait, and so do
// new streams; a machine without power says nothing, one whose process was killed
// resets its streams. Nothing here blocks while it holds a mutex, so that it works in
// a synctest bubble: a write always fits.
type simNet struct {
	mu        sync.Mutex
	random    *rand.Rand
	listeners map[string]*simListener // by node and protocol
	cut       map[[2]string]bool      // from, to
	reject    bool                    // cuts reset streams and refuse new ones
	paused    map[string]bool
	off       map[string]bool // without power
	flaky     float64         // the part of writes on which their stream breaks
	most      time.Duration   // that a write takes to arrive
	halves    map[*simHalf]struct{}
	changed   chan struct{} // closed and replaced when a dial may go on
	broke     int           // streams that broke by being flaky
	writes    int           // of all that runs
}

func newSimNet(random *rand.Rand) *simNet {
	return &simNet{random: random, listeners: make(map[string]*simListener), cut: make(map[[2]string]bool), paused: make(map[string]bool),
		off: make(map[string]bool), most: simNear, halves: make(map[*simHalf]struct{}), changed: make(chan struct{})}
}

// simHalf is one direction of a stream; simNet.mu guards it.
type simHalf struct {
	from, to string
	queue    []simChunk
	ended    bool // the writer closed: then comes the end
	reset    bool // what is queued can be read, then comes an error
	fromGone bool // the writer's process is gone
	toGone   bool // the reader's is, or it has closed
	last     time.Time
	deadline time.Time // of reads
	wake     chan struct{}
}

// simChunk is one write on its way.
type simChunk struct {
	bytes []byte
	at    time.Time // of its arrival
	held  bool      // it has not left
}

func (h *simHalf) rouse() {
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

func (n *simNet) delay() time.Duration { return time.Duration(1 + n.random.Int64N(int64(n.most))) }

func (n *simNet) open(from, to string) bool { return !n.cut[[2]string{from, to}] }

// shift applies a change of the network and lets go what it frees.
func (n *simNet) shift(change func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change()
	for h := range n.halves {
		if n.open(h.from, h.to) && !n.paused[h.from] {
			for i := range h.queue {
				if c := &h.queue[i]; c.held {
					h.last = later(h.last, time.Now().Add(n.delay()))
					c.held, c.at = false, h.last
				}
			}
		}
		if n.reject && !n.open(h.from, h.to) {
			h.reset = true
		}
		h.rouse()
	}
	close(n.changed)
	n.changed = make(chan struct{})
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// crash takes a node's process away, and with power its machine's last words.
func (n *simNet) crash(id string, power bool) {
	n.shift(func() {
		n.off[id], n.paused[id] = power, false
		for _, protocol := range simProtocols {
			if l := n.listeners[id+"/"+protocol]; l != nil {
				l.close()
				delete(n.listeners, id+"/"+protocol)
			}
		}
		for h := range n.halves {
			if h.from == id {
				h.fromGone, h.reset = true, h.reset || !power
				for i, c := range h.queue {
					if c.held {
						h.queue = h.queue[:i]
						break
					}
				}
			}
			if h.to == id {
				h.toGone = true
			}
		}
	})
}

// boot has a node answer again: by resets, on streams of the process before.
func (n *simNet) boot(id string) {
	n.shift(func() {
		delete(n.off, id)
		for h := range n.halves {
			h.reset = h.reset || h.from == id && h.fromGone || h.to == id && h.toGone
		}
	})
}

var simProtocols = []string{"raft", "call"}

func (n *simNet) streams(id, protocol string) Streams {
	l := &simListener{net: n, id: id, protocol: protocol, backlog: make(chan net.Conn, 1024), closed: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listeners[id+"/"+protocol] = l
	return l
}

type simListener struct {
	net          *simNet
	id, protocol string
	backlog      chan net.Conn
	once         sync.Once
	closed       chan struct{}
}

func (l *simListener) close() { l.once.Do(func() { close(l.closed) }) }

func (l *simListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.backlog:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *simListener) Close() error {
	l.close()
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	if key := l.id + "/" + l.protocol; l.net.listeners[key] == l {
		delete(l.net.listeners, key)
	}
	return nil
}

func (l *simListener) Addr() net.Addr { return nodeAddr(l.id) }

func (l *simListener) Dial(ctx context.Context, to string) (net.Conn, error) {
	n := l.net
	for {
		n.mu.Lock()
		cut := !n.open(l.id, to) || !n.open(to, l.id)
		wait, changed := (cut && !n.reject) || n.off[to] || n.paused[l.id], n.changed
		target, trip := n.listeners[to+"/"+l.protocol], n.delay()+n.delay()
		n.mu.Unlock()
		if wait {
			select {
			case <-changed:
				continue
			case <-l.closed:
				return nil, net.ErrClosed
			case <-ctx.Done():
				return nil, fmt.Errorf("node %s is silent: %w", to, context.Cause(ctx))
			}
		}
		time.Sleep(trip)
		if cut || target == nil {
			return nil, fmt.Errorf("node %s: %w", to, syscall.ECONNREFUSED)
		}
		return l.connect(target)
	}
}

func (l *simListener) connect(target *simListener) (net.Conn, error) {
	n := l.net
	out := &simHalf{from: l.id, to: target.id, wake: make(chan struct{}, 1)}
	in := &simHalf{from: target.id, to: l.id, wake: make(chan struct{}, 1)}
	ours, theirs := newSimConn(n, in, out), newSimConn(n, out, in)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners[l.id+"/"+l.protocol] != l || n.listeners[target.id+"/"+l.protocol] != target {
		return nil, fmt.Errorf("node %s: %w", target.id, syscall.ECONNREFUSED)
	}
	select {
	case target.backlog <- theirs:
		n.halves[in], n.halves[out] = struct{}{}, struct{}{}
		return ours, nil
	default:
		return nil, fmt.Errorf("node %s: %w", target.id, syscall.ECONNREFUSED)
	}
}

// simConn is one end of a stream.
type simConn struct {
	net     *simNet
	in, out *simHalf
	timer   *time.Timer // of its reader
	closed  bool        // under net.mu
}

func newSimConn(n *simNet, in, out *simHalf) *simConn {
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	return &simConn{net: n, in: in, out: out, timer: timer}
}

func (c *simConn) Read(b []byte) (int, error) {
	for {
		done, wait, err := c.take(b)
		if done > 0 || err != nil {
			return done, err
		}
		var expired <-chan time.Time
		if wait >= 0 {
			c.timer.Reset(wait)
			expired = c.timer.C
		}
		select {
		case <-c.in.wake:
		case <-expired:
		}
		c.timer.Stop()
	}
}

// take reads what has arrived, or says how long to wait; for ever if that is negative.
func (c *simConn) take(b []byte) (done int, wait time.Duration, err error) {
	n, h := c.net, c.in
	n.mu.Lock()
	defer n.mu.Unlock()
	now, wait := time.Now(), time.Duration(-1)
	switch {
	case c.closed || h.toGone:
		return 0, 0, net.ErrClosed
	case !h.deadline.IsZero() && !now.Before(h.deadline):
		return 0, 0, os.ErrDeadlineExceeded
	}
	if !h.deadline.IsZero() {
		wait = h.deadline.Sub(now)
	}
	if n.paused[h.to] {
		return 0, wait, nil
	}
	if len(h.queue) > 0 && !h.queue[0].held && n.open(h.from, h.to) {
		first := &h.queue[0]
		if until := first.at.Sub(now); until > 0 {
			if wait < 0 || until < wait {
				wait = until
			}
			return 0, wait, nil
		}
		done = copy(b, first.bytes)
		if first.bytes = first.bytes[done:]; len(first.bytes) == 0 {
			h.queue = h.queue[1:]
		}
		return done, 0, nil
	}
	switch {
	case h.reset && (len(h.queue) == 0 || n.reject):
		return 0, 0, syscall.ECONNRESET
	case h.ended && len(h.queue) == 0 && n.open(h.from, h.to):
		return 0, 0, io.EOF
	}
	return 0, wait, nil
}

func (c *simConn) Write(b []byte) (int, error) {
	n, h := c.net, c.out
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case c.closed || h.fromGone:
		return 0, net.ErrClosed
	case h.reset:
		return 0, syscall.ECONNRESET
	case h.toGone && !n.off[h.to] && n.open(h.from, h.to):
		return 0, syscall.EPIPE
	case n.flaky > 0 && n.random.Float64() < n.flaky:
		n.broke++
		c.in.reset, h.reset = true, true
		c.in.rouse()
		h.rouse()
		return len(b), nil // it is lost on its way
	}
	n.writes++
	h.last = later(h.last, time.Now().Add(n.delay()))
	h.queue = append(h.queue, simChunk{bytes.Clone(b), h.last, !n.open(h.from, h.to) || n.paused[h.from]})
	h.rouse()
	return len(b), nil
}

func (c *simConn) Close() error {
	n := c.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	c.closed, c.in.toGone, c.out.ended = true, true, true
	c.in.rouse()
	c.out.rouse()
	delete(n.halves, c.in) // the other direction is forgotten when its reader closes
	return nil
}

func (c *simConn) LocalAddr() net.Addr  { return nodeAddr(c.out.from) }
func (c *simConn) RemoteAddr() net.Addr { return nodeAddr(c.out.to) }

func (c *simConn) SetReadDeadline(t time.Time) error {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	c.in.deadline = t
	c.in.rouse()
	return nil
}

// SetWriteDeadline does nothing: a write never waits.
func (c *simConn) SetWriteDeadline(time.Time) error { return nil }

// SetDeadline is SetReadDeadline.
func (c *simConn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }
