package overlay

import (
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestPodsOfAllNodesReachEachOther(t *testing.T) {
	l := newLab(t, 3)
	var pods []*labPod
	for _, n := range l.nodes {
		pods = append(pods, n.pod(), n.pod())
	}
	for _, p := range pods {
		echoTCP(t, p.ns, p.uid, 80)
		echoUDP(t, p.ns, p.uid, 53)
	}
	const most = 1450 - 20 - 8 // fits a datagram of the pods' MTU
	for _, from := range pods {
		for _, to := range pods {
			name := fmt.Sprintf("%s on %s to %s on %s", from.uid, from.node.name, to.uid, to.node.name)
			server, client, err := askTCP(from.ns, at(to.addr, 80))
			if err != nil || server != to.uid || client != from.addr.String() {
				t.Errorf("%s: %q saw %q, %v", name, server, client, err)
			}
			for _, size := range []int{1, most - 1, most} {
				server, client, got, err := askUDP(from.ns, at(to.addr, 53), size, true)
				if err != nil || server != to.uid || client != from.addr.String() || got != size {
					t.Errorf("%s, %d bytes: %q saw %q and got %d, %v", name, size, server, client, got, err)
				}
			}
			if from != to {
				if _, _, _, err := askUDP(from.ns, at(to.addr, 53), most+1, true); !errors.Is(err, unix.EMSGSIZE) {
					t.Errorf("%s: a datagram above the MTU gave %v instead of EMSGSIZE", name, err)
				}
			}
			if _, _, got, err := askUDP(from.ns, at(to.addr, 53), 4000, false); err != nil || got != 4000 {
				t.Errorf("%s, fragmented: got %d, %v", name, got, err)
			}
		}
	}
}

func TestManyBytesCross(t *testing.T) {
	l := newLab(t, 2)
	a, b := l.nodes[0].pod(), l.nodes[1].pod()
	echoTCP(t, b.ns, "b", 80)
	c, err := dialIn(a.ns, "tcp4", at(b.addr, 80), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	var server, client string
	fmt.Fscanf(c, "%s %s\n", &server, &client)
	const size = 8 << 20
	go c.Write(make([]byte, size))
	if n, err := io.CopyN(io.Discard, c, size); err != nil {
		t.Fatalf("%d of %d bytes came back: %v", n, size, err)
	}
}
