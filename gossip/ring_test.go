package gossip_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
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
	cfg := gossip.Config{NodeID: n.id, Name: "name-" + n.id, RingKey: ringKey, Packets: n.host.Packets(7946),
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

func TestRingByNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		for i := 1; i <= 3; i++ {
			l.add(i).start(joining("10.0.0.1", "10.0.0.2:6443", "10.0.0.3"))
		}
		defer l.stopAll()
		t.Logf("converged after %v", l.allSee(2*time.Second))

		l.nodes["n3"].crash()
		took := eventually(t, 10*time.Second, "n1 holds n3 for dead", func() bool {
			return l.nodes["n1"].member("n3").State == gossip.StateDead
		})
		t.Logf("a crash was seen after %v", took)
		if a, err := l.nodes["n1"].ring.Resolve("n3"); err != nil || a.String() != "10.0.0.3:6443" {
			t.Errorf("Resolve of a dead member: %v, %v", a, err)
		}

		l.nodes["n2"].stop()
		eventually(t, 2*time.Second, "n1 sees that n2 left", func() bool {
			return l.nodes["n1"].member("n2").State == gossip.StateLeft
		})
	})
}

func TestRingByBeacon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		for i := 1; i <= 3; i++ {
			n := l.add(i)
			n.start(n.beacon())
		}
		defer l.stopAll()
		t.Logf("converged after %v", l.allSee(2*time.Second))
	})
}

func TestRestartKnowsOthersFromDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.add(1).start(cluster("c"))
		for i := 2; i <= 3; i++ {
			l.add(i).start(cluster("c"), joining("10.0.0.1"))
		}
		defer l.stopAll()
		l.allSee(2 * time.Second)
		time.Sleep(time.Second)
		for _, n := range l.nodes {
			n.stop()
		}
		for _, id := range []string{"n2", "n3"} { // no names, no beacon, the first one away
			l.nodes[id].start(cluster("c"))
		}
		n2 := l.nodes["n2"]
		if got := n2.states(); got != "n1 unknown, n2 alive, n3 unknown" {
			t.Errorf("states before anybody was met: %s", got)
		}
		eventually(t, 3*time.Second, "n2 sees n3 alive", func() bool { return n2.member("n3").State == gossip.StateAlive })
		eventually(t, 12*time.Second, "n2 gives n1 up", func() bool { return n2.member("n1").State == gossip.StateDead })
		l.nodes["n1"].start(cluster("c"))
		l.allSee(time.Minute)
	})
}

func TestEveryAddressChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		for i := 1; i <= 3; i++ {
			n := l.add(i)
			n.start(cluster("c"), joining("10.0.0.1"), n.beacon())
		}
		defer l.stopAll()
		l.allSee(2 * time.Second)
		l.nodes["n2"].host.Readdress(l.addr(12))
		t.Logf("one moved, healed after %v", l.allSee(30*time.Second))
		for i := 1; i <= 3; i++ {
			l.nodes[fmt.Sprintf("n%d", i)].host.Readdress(l.addr(20 + i))
		}
		t.Logf("all moved, healed after %v", l.allSee(time.Minute))
	})
}

func TestSplitHeals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		for i := 1; i <= 4; i++ {
			l.add(i).start(cluster("c"), joining("10.0.0.1"))
		}
		defer l.stopAll()
		l.allSee(2 * time.Second)
		l.net.Split([]netip.Addr{l.addr(1), l.addr(2)}, []netip.Addr{l.addr(3), l.addr(4)})
		n1, n3 := l.nodes["n1"], l.nodes["n3"]
		eventually(t, time.Minute, "both sides hold each other for dead", func() bool {
			return n1.states() == "n1 alive, n2 alive, n3 dead, n4 dead" && n3.states() == "n1 dead, n2 dead, n3 alive, n4 alive"
		})
		time.Sleep(10 * time.Minute) // longer than memberlist remembers the dead
		l.net.Heal()
		t.Logf("healed after %v", l.allSee(time.Minute))
	})
}

// TestSplitHealsWhenBothSidesMoved: nobody's address book helps any more, and
// nobody is alone.
func TestSplitHealsWhenBothSidesMoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		for i := 1; i <= 4; i++ {
			n := l.add(i)
			n.start(cluster("c"), n.beacon())
		}
		defer l.stopAll()
		l.allSee(2 * time.Second)
		l.net.Split([]netip.Addr{l.addr(11), l.addr(12)}, []netip.Addr{l.addr(13), l.addr(14)})
		for i := 1; i <= 4; i++ {
			l.nodes[fmt.Sprintf("n%d", i)].host.Readdress(l.addr(10 + i))
		}
		eventually(t, time.Minute, "n1 sees its own side only", func() bool {
			return l.nodes["n1"].states() == "n1 alive, n2 alive, n3 dead, n4 dead"
		})
		time.Sleep(time.Minute)
		l.net.Heal()
		t.Logf("healed after %v", l.allSee(2*time.Minute))
	})
}

func TestTwoClustersRefuseEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		for i, c := range []string{"a", "a", "b", "b"} {
			l.add(i+1).start(cluster(c), joining("10.0.0.1", "10.0.0.3"))
		}
		defer l.stopAll()
		eventually(t, 5*time.Second, "each cluster sees itself only", func() bool {
			return l.nodes["n1"].states() == "n1 alive, n2 alive" && l.nodes["n3"].states() == "n3 alive, n4 alive"
		})
		time.Sleep(time.Minute)
		if got := l.nodes["n1"].states(); got != "n1 alive, n2 alive" {
			t.Errorf("after a minute n1 sees %s", got)
		}
		for _, id := range []string{"n1", "n3"} {
			if n := strings.Count(l.nodes[id].log.String(), "refused a node of another cluster"); n < 1 || n > 2 {
				t.Errorf("%s told %d times of the other cluster, want once per node of it", id, n)
			}
		}
	})
}

func TestIdleRingIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		for i := 1; i <= 3; i++ {
			n := l.add(i)
			n.start(cluster("c"), joining("10.0.0.1", "10.0.0.2"), n.beacon(), func(c *gossip.Config) {
				c.Logger = slog.New(slog.NewTextHandler(n.log, nil))
			})
		}
		defer l.stopAll()
		l.allSee(2 * time.Second)
		time.Sleep(time.Second)
		dir, logged := l.nodes["n1"].dir, l.nodes["n1"].log.String()
		before := filesOf(t, dir)
		time.Sleep(10 * time.Minute)
		if after := filesOf(t, dir); after != before {
			t.Errorf("files changed while idle:\n%s\nbefore:\n%s", after, before)
		}
		if now := l.nodes["n1"].log.String(); now != logged {
			t.Errorf("logged while idle: %s", now[len(logged):])
		}
	})
}

// filesOf lists the inodes and times of a directory: a rewritten file shows.
func filesOf(t *testing.T, dir string) string {
	t.Helper()
	es, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var s []string
	for _, e := range es {
		fi, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		s = append(s, fmt.Sprintf("%s %d %v %v", e.Name(), fi.Size(), fi.ModTime().UnixNano(), fi.Sys()))
	}
	return strings.Join(s, "\n")
}

func TestLostCountOfLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		for i := 1; i <= 3; i++ {
			l.add(i).start(cluster("c"), joining("10.0.0.1"))
		}
		defer l.stopAll()
		l.allSee(2 * time.Second)
		n3 := l.nodes["n3"]
		for range 3 {
			n3.stop()
			n3.start(cluster("c"), joining("10.0.0.1"))
			l.allSee(30 * time.Second)
		}
		n3.stop()
		if err := os.Remove(filepath.Join(n3.dir, "incarnation")); err != nil {
			t.Fatal(err)
		}
		n3.start(cluster("c"), joining("10.0.0.1"))
		l.allSee(30 * time.Second)
	})
}

// TestFormOnSockets founds a cluster of three over loopback, with real datagrams
// and streams. A protocol is told by the first byte of a stream here.
func TestFormOnSockets(t *testing.T) {
	type node struct {
		ring *gossip.Ring
		port uint16
		form gossip.Streams
	}
	start := func(id string, join ...string) node {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := uint16(ln.Addr().(*net.TCPAddr).Port)
		streams := split(t, ln, "rf")
		r, err := gossip.New(gossip.Config{NodeID: id, Name: id, RingKey: ringKey, UDP: netip.MustParseAddrPort("127.0.0.1:0"),
			Advertise: func() netip.Addr { return netip.MustParseAddr("127.0.0.1") }, ClusterPort: port,
			Ring: streams[0], Dir: t.TempDir(), Join: join, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		return node{r, port, streams[1]}
	}
	a := start("a")
	first := fmt.Sprintf("127.0.0.1:%d", a.port)
	begun := time.Now()
	waits := map[string]chan formed{}
	for id, n := range map[string]node{"a": a, "b": start("b", first), "c": start("c", first)} {
		ch := make(chan formed, 1)
		waits[id] = ch
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			out, err := n.ring.Form(ctx, gossip.FormConfig{Expect: 3, Founder: &testFounder{id: id}, Streams: n.form})
			ch <- formed{out, err}
		}()
	}
	for id, ch := range waits {
		if f := <-ch; f.err != nil || f.out.Kind != gossip.Founded {
			t.Errorf("%s: %+v", id, f)
		}
	}
	t.Logf("formed after %v", time.Since(begun))
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
