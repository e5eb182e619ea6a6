package gossip_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"kontiki/gossip"
)

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
		// Fake time: what this bounds is the pace, whatever the machine does.
		t.Logf("healed after %v", l.allSee(3*time.Second))
	})
}

// TestOneCutOffIsBackSoon: the node that was alone and those that were together look for
// each other all the time, whichever heals when.
func TestOneCutOffIsBackSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		for i := 1; i <= 3; i++ {
			l.add(i).start(cluster("c"), joining("10.0.0.1"))
		}
		defer l.stopAll()
		l.allSee(2 * time.Second)
		var worst time.Duration
		for round := range 12 {
			l.net.Split([]netip.Addr{l.addr(1)}, []netip.Addr{l.addr(2), l.addr(3)})
			eventually(t, time.Minute, "both sides hold each other for dead", func() bool {
				return l.nodes["n1"].states() == "n1 alive, n2 dead, n3 dead" && l.nodes["n3"].states() == "n1 dead, n2 alive, n3 alive"
			})
			time.Sleep(time.Minute + time.Duration(round)*170*time.Millisecond)
			l.net.Heal()
			worst = max(worst, l.allSee(3*time.Second))
		}
		t.Logf("healed after %v at worst", worst)
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
		r, err := gossip.New(gossip.Config{NodeID: id, Name: id, Keys: gossip.Keys{Primary: ringKey}, UDP: netip.MustParseAddrPort("127.0.0.1:0"),
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
