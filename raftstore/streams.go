package raftstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Streams is a source of authenticated streams between the nodes of one
// cluster. The cluster port fills it; raftstore adds a short hello of its own on
// top, which names the cluster and both ends.
type Streams interface {
	Accept() (net.Conn, error)
	Close() error
	Addr() net.Addr
	// Dial opens a stream to the node with that id, wherever it lives now.
	Dial(ctx context.Context, nodeID string) (net.Conn, error)
}

const (
	helloVersion = 1
	helloTimeout = 5 * time.Second
	dialTimeout  = 2 * time.Second
	maxFrame     = 64 << 20
)

// hello is the first frame of every stream. Ports are used again by other nodes
// and other clusters; the hello makes sure that the right two are talking.
type hello struct {
	Version  int
	Cluster  string
	From, To string
	Epoch    Epoch
}

type helloReply struct {
	Refusal string
	Epoch   Epoch // of who answers
}

// greeter opens and accepts streams with a hello.
type greeter struct {
	streams         Streams
	cluster, nodeID string
	epoch           Epoch
	refused         func(nodeID string, why error) // or nil
	log             *slog.Logger
}

func (g *greeter) dial(ctx context.Context, to string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := g.streams.Dial(ctx, to)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	var reply helloReply
	err = writeFrame(conn, hello{helloVersion, g.cluster, g.nodeID, to, g.epoch})
	if err == nil {
		err = readFrame(conn, &reply)
	}
	if err == nil && reply.Refusal != "" {
		if err = errors.New(reply.Refusal); reply.Epoch != g.epoch {
			err = fmt.Errorf("%w (it says: %s)", g.otherEpoch(to, reply.Epoch), reply.Refusal)
		}
	}
	if err == nil && !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		stop()
		conn.Close()
		return nil, fmt.Errorf("hello to node %s: %w", to, err)
	}
	conn.SetDeadline(time.Time{})
	return conn, nil
}

// greet answers the hello of an accepted stream and returns who is calling.
func (g *greeter) greet(conn net.Conn) (from string, err error) {
	conn.SetDeadline(time.Now().Add(helloTimeout))
	var h hello
	if err := readFrame(conn, &h); err != nil {
		return "", err
	}
	var refusal string
	var why error
	switch {
	case h.Version != helloVersion:
		refusal = fmt.Sprintf("protocol version %d is spoken, version %d is understood", h.Version, helloVersion)
	case h.Cluster != g.cluster:
		refusal = fmt.Sprintf("node %s is of cluster %s, not of %s", g.nodeID, g.cluster, h.Cluster)
	case h.To != g.nodeID:
		refusal = fmt.Sprintf("node %s lives here, not %s", g.nodeID, h.To)
	case h.Epoch != g.epoch:
		why = g.otherEpoch(h.From, h.Epoch)
		refusal = EpochsDiffer(g.nodeID, h.Epoch, g.epoch).Error()
	}
	if err := writeFrame(conn, helloReply{refusal, g.epoch}); err != nil {
		return "", err
	}
	if why != nil {
		return "", why
	}
	if refusal != "" {
		return "", errors.New(refusal)
	}
	conn.SetDeadline(time.Time{})
	return h.From, nil
}

// otherEpoch tells of a node of another epoch.
func (g *greeter) otherEpoch(nodeID string, epoch Epoch) error {
	err := EpochsDiffer(nodeID, g.epoch, epoch)
	if g.refused != nil {
		g.refused(nodeID, err)
	}
	return err
}

// serve accepts streams until they are closed and hands each to use, in a
// goroutine of its own, once its hello is done. It returns when all have ended.
func (g *greeter) serve(use func(conn net.Conn, from string)) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		conn, err := g.streams.Accept()
		if err != nil {
			return
		}
		wg.Go(func() {
			from, err := g.greet(conn)
			if err != nil {
				g.log.Warn("a stream was refused", "remote", conn.RemoteAddr(), "error", err)
				conn.Close()
				return
			}
			use(conn, from)
		})
	}
}

func writeFrame(w io.Writer, v any) error {
	b, err := marshal(v)
	if err != nil {
		return err
	}
	if len(b) > maxFrame {
		return fmt.Errorf("frame of %d bytes, the limit is %d", len(b), maxFrame)
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(b)), uint32(len(b))), b...))
	return err
}

func readFrame(r io.Reader, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxFrame {
		return fmt.Errorf("frame of %d bytes, the limit is %d", n, maxFrame)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	return unmarshal(b, v)
}

// raftStreams is Raft's stream layer. Raft's addresses are node ids: votes and
// "who leads" compare addresses, and node ids never change.
type raftStreams struct {
	greeter
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
	served chan struct{}

	mu   sync.Mutex
	open map[*raftConn]struct{} // Raft leaves its streams open when it stops
}

// raftConn is forgotten when it is closed.
type raftConn struct {
	net.Conn
	layer *raftStreams
}

func (c *raftConn) Close() error {
	c.layer.mu.Lock()
	delete(c.layer.open, c)
	c.layer.mu.Unlock()
	return c.Conn.Close()
}

// keep remembers a stream until it is closed; after Close it closes it at once.
func (l *raftStreams) keep(conn net.Conn) *raftConn {
	c := &raftConn{conn, l}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open == nil {
		conn.Close()
	} else {
		l.open[c] = struct{}{}
	}
	return c
}

func newRaftStreams(g greeter) *raftStreams {
	l := &raftStreams{greeter: g, conns: make(chan net.Conn), closed: make(chan struct{}), served: make(chan struct{}), open: make(map[*raftConn]struct{})}
	go func() {
		defer close(l.served)
		l.serve(func(conn net.Conn, _ string) {
			select {
			case l.conns <- l.keep(conn):
			case <-l.closed:
				conn.Close()
			}
		})
	}()
	return l
}

func (l *raftStreams) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *raftStreams) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	conn, err := l.dial(ctx, string(address))
	if err != nil {
		return nil, err
	}
	return l.keep(conn), nil
}

func (l *raftStreams) Close() error {
	var err error
	l.once.Do(func() {
		close(l.closed)
		err = l.streams.Close()
		<-l.served
		l.mu.Lock()
		open := l.open
		l.open = nil
		l.mu.Unlock()
		for c := range open {
			c.Conn.Close()
		}
	})
	return err
}

func (l *raftStreams) Addr() net.Addr { return nodeAddr(l.nodeID) }

// nodeAddr is a node id where an address is asked for.
type nodeAddr string

func (nodeAddr) Network() string  { return "kontiki" }
func (a nodeAddr) String() string { return string(a) }
