package gossip_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"kontiki/gossip"
	"kontiki/gossip/gossiptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var ringKey = bytes.Repeat([]byte{7}, 32)

// lab is a set of nodes on a network in memory, inside a synctest bubble.
type lab struct {
	t     *testing.T
	net   *gossiptest.Network
	nodes map[string]*labNode
}

type labNode struct {
	lab  *lab
	id   string
	host *gossiptest.Host
	dir  string
	ring *gossip.Ring
	stop func()
	log  *logBuffer
}

func newLab(t *testing.T) *lab {
	l := &lab{t: t, net: gossiptest.New(), nodes: map[string]*labNode{}}
	t.Cleanup(func() {
		if t.Failed() {
			for _, n := range l.nodes {
				t.Logf("log of %s:\n%s", n.id, n.log)
			}
		}
	})
	return l
}

func (l *lab) addr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}) }

// add makes a node with id "n<i>", address 10.0.0.<i>, not started.
func (l *lab) add(i int) *labNode {
	n := &labNode{lab: l, id: fmt.Sprintf("n%d", i), host: l.net.Host(l.addr(i)), dir: l.t.TempDir(), log: &logBuffer{}}
	l.nodes[n.id] = n
	return n
}

type option func(*gossip.Config)

func joining(addrs ...string) option { return func(c *gossip.Config) { c.Join = addrs } }
func cluster(id string) option       { return func(c *gossip.Config) { c.Meta.ClusterID = id } }
func (n *labNode) beacon() option {
	return func(c *gossip.Config) { c.Beacon = n.host.Beacon() }
}

func (n *labNode) start(opts ...option) *labNode {
	t := n.lab.t
	t.Helper()
	cfg := gossip.Config{NodeID: n.id, Name: "name-" + n.id, Keys: gossip.Keys{Primary: ringKey}, Packets: n.host.Packets(7946),
		Advertise: n.host.Addr, ClusterPort: 6443, Ring: n.host.Streams("ring", 6443), Dir: n.dir,
		Logger: slog.New(slog.NewTextHandler(n.log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	for _, o := range opts {
		o(&cfg)
	}
	r, err := gossip.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	n.ring = r
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("%s: Run: %v", n.id, err)
		}
	})
	return n
}

// crash stops a node without a word to the others.
func (n *labNode) crash() {
	for _, o := range n.lab.nodes {
		if o != n {
			n.lab.net.Cut(n.host.Addr(), o.host.Addr())
		}
	}
	n.stop()
	n.lab.net.Heal()
}

func (l *lab) stopAll() {
	var wg sync.WaitGroup
	for _, n := range l.nodes {
		if n.stop != nil {
			wg.Go(n.stop)
		}
	}
	wg.Wait()
	time.Sleep(time.Minute) // inside the bubble: memberlist's last timers
}

func (n *labNode) member(id string) gossip.Member {
	for _, m := range n.ring.Members() {
		if m.ID == id {
			return m
		}
	}
	return gossip.Member{}
}

func (n *labNode) states() string {
	var s []string
	for _, m := range n.ring.Members() {
		s = append(s, fmt.Sprintf("%s %s", m.ID, m.State))
	}
	return strings.Join(s, ", ")
}

// eventually waits in fake time.
func eventually(t *testing.T, limit time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for time.Since(start) < limit {
		if ok() {
			return time.Since(start)
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("waited %v in vain for: %s", limit, what)
	return 0
}

// allSee waits until every running node holds every running node for alive.
func (l *lab) allSee(limit time.Duration) time.Duration {
	l.t.Helper()
	return eventually(l.t, limit, "all nodes see all alive at their addresses", func() bool {
		for _, a := range l.nodes {
			for _, b := range l.nodes {
				if m := a.member(b.id); a != b && (m.State != gossip.StateAlive || m.Addr != b.host.Addr()) {
					return false
				}
			}
		}
		return true
	})
}

// logBuffer keeps what a node logged.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// split makes streams per protocol out of one listener.
func split(t *testing.T, ln net.Listener, protocols string) []gossip.Streams {
	var out []gossip.Streams
	byProto := map[byte]*tcpStreams{}
	for _, p := range []byte(protocols) {
		s := &tcpStreams{proto: p, ln: ln, in: make(chan net.Conn), done: make(chan struct{})}
		byProto[p] = s
		out = append(out, s)
	}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				var b [1]byte
				conn.SetReadDeadline(time.Now().Add(5 * time.Second))
				if _, err := io.ReadFull(conn, b[:]); err != nil || byProto[b[0]] == nil {
					conn.Close()
					return
				}
				conn.SetReadDeadline(time.Time{})
				select {
				case byProto[b[0]].in <- conn:
				case <-byProto[b[0]].done:
					conn.Close()
				}
			}()
		}
	}()
	t.Cleanup(func() { ln.Close() })
	return out
}

type tcpStreams struct {
	proto byte
	ln    net.Listener
	in    chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (s *tcpStreams) Accept() (net.Conn, error) {
	select {
	case c := <-s.in:
		return c, nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}

func (s *tcpStreams) Close() error { s.once.Do(func() { close(s.done) }); return nil }

func (s *tcpStreams) Dial(ctx context.Context, a netip.AddrPort) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", a.String())
	if err != nil {
		return nil, err
	}
	_, err = c.Write([]byte{s.proto})
	return c, err
}
