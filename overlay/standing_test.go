package overlay

import (
	"bytes"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// echoes serves what it gets on a port in a namespace, as long as clients like.
func echoes(t testing.TB, ns netns.NsHandle, port uint16) {
	t.Helper()
	serveTCP(t, ns, port, func(c net.Conn) { _, _ = io.Copy(c, c) }) // until the client has enough
}

// TestConnectionsStand: whatever changes of Services, of the table, of nodes' programs and
// addresses, connections that stand go on between whom packets can get to.
func TestConnectionsStand(t *testing.T) {
	l := newLab(t, 2)
	client, server, other := l.nodes[0].pod(), l.nodes[1].pod(), l.nodes[0].pod()
	echoes(t, server.ns, 80)
	echoTCP(t, other.ns, other.uid, 80)
	slice := l.expose("web", "10.43.0.20", 30080, server)
	outside, _ := l.host(99)
	standing := map[string]net.Conn{}
	for who, way := range map[string]struct {
		from netns.NsHandle
		to   string
	}{
		"a pod to a pod":                     {client.ns, at(server.addr, 80)},
		"a pod to a Service":                 {client.ns, "10.43.0.20:80"},
		"a node to a Service":                {l.nodes[0].ns, "10.43.0.20:80"},
		"the outside to a port of its node":  {outside, at(l.nodes[1].addr, 30080)},
		"the outside to another node's port": {outside, at(l.nodes[0].addr, 30080)},
	} {
		eventually(t, who+" to be connected", func() error {
			c, err := dialIn(way.from, "tcp4", way.to, time.Second)
			if err == nil {
				standing[who] = c
			}
			return err
		})
		t.Cleanup(func() { standing[who].Close() })
	}
	talk := func(when string, but ...string) {
		t.Helper()
		said := []byte("are you there, " + when + "?")
		heard := make([]byte, len(said))
		for who, c := range standing {
			if slices.Contains(but, who) {
				continue
			}
			c.SetDeadline(time.Now().Add(patience))
			_, err := c.Write(said)
			if err == nil {
				_, err = io.ReadFull(c, heard)
			}
			acknowledge(t, c)
			if err != nil || !bytes.Equal(heard, said) {
				t.Errorf("%s, %s: %q, %v", when, who, heard, err)
			}
		}
	}
	talk("at first")
	newcomer := func(when string) {
		t.Helper()
		eventually(t, "a new connection "+when, answered(func() (string, error) {
			server, _, err := askTCP(client.ns, "10.43.0.20:80")
			return server, err
		}, other.uid))
	}

	l.expose("more", "10.43.0.30", 0, other)
	eventually(t, "another Service to be there", answered(func() (string, error) {
		server, _, err := askTCP(client.ns, "10.43.0.30:80")
		return server, err
	}, other.uid))
	talk("beside another Service")

	slice.Endpoints = l.slice("web", other).Endpoints
	l.update(slice)
	newcomer("to the endpoint that took the other's place")
	talk("once the endpoint is none any more")

	l.ring.setDead("node-2")
	newcomer("while a node is held for dead")
	talk("with a node that is held for dead")
	l.ring.setDead()

	for _, n := range l.nodes {
		n.stop()
	}
	talk("without the nodes' programs")
	for _, n := range l.nodes {
		n.start()
	}
	for _, n := range l.nodes {
		eventually(t, n.name+" to have programmed all Services", func() error {
			if !n.net.watcher.Started() {
				return errors.New("not yet")
			}
			return nil
		})
	}
	newcomer("after a restart")
	talk("after a restart of the nodes' programs")

	l.nodes[1].readdress(t, "192.168.77.77")
	talk("after the other node got another address", "the outside to a port of its node")

	// What comes for a port of a node while nobody translates it, the node itself resets.
	for _, n := range l.nodes {
		if err := rules(n, func(c *nftables.Conn, tb *nftables.Table) error { c.DelTable(tb); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range l.nodes {
		eventually(t, n.name+" to have its table again", func() error {
			return rules(n, func(c *nftables.Conn, tb *nftables.Table) error {
				_, err := c.ListTableOfFamily(tb.Name, tb.Family)
				return err
			})
		})
	}
	newcomer("after the table was removed by hand")
	talk("after the table was removed by hand", "the outside to a port of its node", "the outside to another node's port")
}

// acknowledge has the kernel acknowledge what was heard at once, and not up to 40 ms later: the
// other end would send it again, and where nobody translates that the kernel resets it.
func acknowledge(t *testing.T, c net.Conn) {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(fd uintptr) {
		if err := unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Error(err)
	}
}
