package overlay

import (
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kontiki/overlay/datapath"
)

func TestPodsOfAllNodesReachEachOther(t *testing.T) {
	for backend, mtu := range map[datapath.Backend]int{datapath.VXLAN: 1450, datapath.HostGateway: 1500} {
		t.Run(string(backend), func(t *testing.T) { everyPair(t, newLabWith(t, 3, backend), mtu) })
	}
}

// everyPair has two pods on each node talk around the MTU, and to the Service of all.
func everyPair(t *testing.T, l *lab, mtu int) {
	var pods []*labPod
	for _, n := range l.nodes {
		pods = append(pods, n.pod(), n.pod())
	}
	for _, p := range pods {
		echoTCP(t, p.ns, p.uid, 80)
		echoUDP(t, p.ns, p.uid, 53)
	}
	most := mtu - 20 - 8 // fits a datagram of the pods' MTU
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

// TestRunningPodsFollowTheMTU: the underlay's MTU changes under them.
func TestRunningPodsFollowTheMTU(t *testing.T) {
	l := newLab(t, 2)
	a, b := l.nodes[0].pod(), l.nodes[1].pod()
	echoUDP(t, b.ns, b.uid, 53)
	for _, mtu := range []int{1400, 1500} {
		for _, n := range l.nodes {
			h := handle(t, n.ns)
			eth, err := h.LinkByName("eth0")
			if err == nil {
				err = h.LinkSetMTU(eth, mtu)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		// Both first: a packet that the other node still finds too big would leave a path
		// MTU in the pod, which the kernel believes for ten minutes.
		for _, p := range []*labPod{a, b} {
			h := handle(t, p.ns)
			eventually(t, fmt.Sprintf("%s to have an MTU of %d", p.uid, mtu-50), func() error {
				eth, err := h.LinkByName("eth0")
				if err == nil && eth.Attrs().MTU != mtu-50 {
					err = fmt.Errorf("it has %d", eth.Attrs().MTU)
				}
				return err
			})
		}
		most := mtu - 50 - 28
		eventually(t, fmt.Sprintf("pods send up to %d bytes", most), func() error {
			if _, _, got, err := askUDP(a.ns, at(b.addr, 53), most, true); err != nil || got != most {
				return fmt.Errorf("%d of %d bytes: %w", got, most, err)
			}
			if _, _, _, err := askUDP(a.ns, at(b.addr, 53), most+1, true); !errors.Is(err, unix.EMSGSIZE) {
				return fmt.Errorf("one more gave %w", err)
			}
			return nil
		})
	}
	if diff := l.nodes[0].net.Report().Differences; len(diff) > 0 {
		t.Errorf("differences: %v", diff)
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
