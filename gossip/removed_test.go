package gossip_test

import (
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"kontiki/gossip"
)

// refusals counts what a node refused.
type refusals struct {
	mu   sync.Mutex
	seen map[gossip.Refusal]int
}

func (r *refusals) option() option {
	r.seen = map[gossip.Refusal]int{}
	return func(c *gossip.Config) {
		c.Refused = func(f gossip.Refusal) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.seen[f]++
		}
	}
}

func (r *refusals) count(f gossip.Refusal) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen[f]
}

func TestRemovedNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		var refused refusals
		l.add(1).start(cluster("c"), refused.option())
		l.add(2).start(cluster("c"), joining("10.0.0.1"))
		n3 := l.add(3).start(cluster("c"), joining("10.0.0.1"))
		defer l.stopAll()
		l.allSee(2 * time.Second)
		lease := gossip.Lease{Subnets: []netip.Prefix{netip.MustParsePrefix("10.42.3.0/24")}, GrantRevision: 7}
		if err := n3.ring.SetLease(lease); err != nil {
			t.Fatal(err)
		}
		n1, n2 := l.nodes["n1"], l.nodes["n2"]
		eventually(t, time.Minute, "n1 knows the lease of n3", func() bool { return len(n1.ring.Leases()) == 1 })

		n3.crash() // it hears nothing of its removal
		for _, n := range []*labNode{n1, n2} {
			n.ring.SetRemoved([]string{"n3"})
			if got := n.states(); got != "n1 alive, n2 alive" {
				t.Errorf("%s sees %s after the removal", n.id, got)
			}
			if got := n.ring.Leases(); len(got) != 0 {
				t.Errorf("%s still has the lease %v", n.id, got)
			}
		}
		n3.start(cluster("c"), joining("10.0.0.1"))
		eventually(t, 10*time.Second, "n3 hears that it was removed", n3.ring.Removed)
		if n1.ring.Removed() {
			t.Error("n1 holds itself for removed")
		}
		want := gossip.Refusal{Kind: gossip.RefusedRemoved, ID: "n3", Name: "name-n3", Addr: l.addr(3), ClusterID: "c"}
		if refused.count(want) == 0 {
			t.Errorf("n1 told of no refusal of n3, only of %v", refused.seen)
		}
		time.Sleep(time.Minute)
		for _, n := range []*labNode{n1, n2} {
			if got := n.states(); got != "n1 alive, n2 alive" {
				t.Errorf("%s sees %s a minute after n3 came back", n.id, got)
			}
		}

		// Taken off the list, as a restored snapshot may, it is a member again.
		n1.ring.SetRemoved(nil)
		n2.ring.SetRemoved(nil)
		l.allSee(time.Minute)
	})
}

func TestRefusalsAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		var one, two refusals
		l.add(1).start(cluster("a"), one.option())
		l.add(2).start(cluster("b"), joining("10.0.0.1"), two.option())
		defer l.stopAll()
		eventually(t, 5*time.Second, "both sides tell of the other's cluster", func() bool {
			return one.count(gossip.Refusal{Kind: gossip.RefusedCluster, ID: "n2", Name: "name-n2", Addr: l.addr(2), ClusterID: "b"}) > 0 &&
				two.count(gossip.Refusal{Kind: gossip.RefusedCluster, ID: "n1", Name: "name-n1", Addr: l.addr(1), ClusterID: "a"}) > 0
		})
		packets := l.net.Host(l.addr(9)).Packets(7946)
		defer packets.Close()
		stray := make([]byte, 64)
		stray[0] = 1 // memberlist's version of encryption
		if _, err := packets.WriteTo(stray, udpAddr(l.addr(1))); err != nil {
			t.Fatal(err)
		}
		eventually(t, 5*time.Second, "n1 tells of a datagram of another secret", func() bool {
			return one.count(gossip.Refusal{Kind: gossip.RefusedSecret, Addr: l.addr(9)}) > 0
		})
	})
}

func udpAddr(a netip.Addr) net.Addr { return net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 7946)) }
