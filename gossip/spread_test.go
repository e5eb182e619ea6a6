package gossip_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"kontiki/gossip"
)

func leaseOf(i int, grant uint64) gossip.Lease {
	return gossip.Lease{Subnets: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.42.%d.0/24", i))}, GrantRevision: grant,
		Endpoint: gossip.Endpoint{Addr: netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", i)), MAC: []byte{2, 0, 0, 0, 0, byte(i)}, MTU: 1450}}
}

func (n *labNode) leases() string {
	var s []string
	for _, l := range n.ring.Leases() {
		s = append(s, fmt.Sprintf("%s %v@%d via %v#%d", l.NodeID, l.Subnets, l.GrantRevision, l.Endpoint.Addr, l.Endpoint.Sequence))
	}
	return strings.Join(s, "; ")
}

func TestLeasesSpreadAndStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		defer l.stopAll()
		for i := 1; i <= 3; i++ {
			l.add(i).start(cluster("c"), joining("10.0.0.1"))
			if err := l.nodes[fmt.Sprintf("n%d", i)].ring.SetLease(leaseOf(i, uint64(i))); err != nil {
				t.Fatal(err)
			}
		}
		want := "n1 [10.42.1.0/24]@1 via 192.0.2.1#1; n2 [10.42.2.0/24]@2 via 192.0.2.2#1; n3 [10.42.3.0/24]@3 via 192.0.2.3#1"
		everybody := func() bool {
			for _, n := range l.nodes {
				if n.leases() != want {
					return false
				}
			}
			return true
		}
		t.Logf("leases spread after %v", eventually(t, 3*time.Second, "all know all leases", everybody))

		wake, stop := l.nodes["n1"].ring.WatchLeases()
		defer stop()
		<-wake
		if err := l.nodes["n2"].ring.SetLease(leaseOf(12, 7)); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		<-wake
		t.Logf("a change was seen after %v", time.Since(start))
		want = strings.Replace(want, "n2 [10.42.2.0/24]@2 via 192.0.2.2#1", "n2 [10.42.12.0/24]@7 via 192.0.2.12#2", 1)
		eventually(t, 3*time.Second, "all know the change", everybody)

		// A dead member's lease stays, and is there before anybody is met again.
		l.nodes["n3"].crash()
		eventually(t, 10*time.Second, "n3 is dead", func() bool { return l.nodes["n1"].member("n3").State == gossip.StateDead })
		if got := l.nodes["n1"].leases(); got != want {
			t.Errorf("with n3 dead: %s", got)
		}
		l.nodes["n1"].stop()
		l.nodes["n2"].stop()
		l.nodes["n1"].start(cluster("c"))
		if got := l.nodes["n1"].leases(); got != want {
			t.Errorf("after a restart, alone: %s", got)
		}
		// The same endpoint again is no news.
		if err := l.nodes["n1"].ring.SetLease(leaseOf(1, 1)); err != nil {
			t.Fatal(err)
		}
		if got := l.nodes["n1"].leases(); got != want {
			t.Errorf("after setting the same lease: %s", got)
		}
	})
}

// TestNewsOfAllAtOnce: what all nodes say of themselves at one moment meets in the queues
// of all of them, in messages of one length, and none is lost there.
func TestNewsOfAllAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		defer l.stopAll()
		for i := 1; i <= 6; i++ {
			l.add(i).start(cluster("c"), joining("10.0.0.1", "10.0.0.2", "10.0.0.3"))
		}
		l.allSee(5 * time.Second)
		for round := range 150 {
			version := fmt.Sprintf("v%03d", round)
			for i := 1; i <= 6; i++ {
				ring := l.nodes[fmt.Sprintf("n%d", i)].ring
				if err := ring.SetSelf(gossip.Meta{ClusterID: "c", Version: version}); err != nil {
					t.Fatal(err)
				}
				if err := ring.SetLease(leaseOf(i, uint64(round+1))); err != nil {
					t.Fatal(err)
				}
			}
			eventually(t, 5*time.Second, "all to hear "+version+" of all", func() bool {
				for _, n := range l.nodes {
					leases := n.ring.Leases()
					if len(leases) != 6 {
						return false
					}
					for _, lease := range leases {
						if lease.GrantRevision != uint64(round+1) || n.member(lease.NodeID).Version != version {
							return false
						}
					}
				}
				return true
			})
		}
	})
}

// TestNewcomerGetsLeasesAtOnce: a node that enters a cluster does not wait for the
// next push-pull; one of another cluster, or of none, gets nothing.
func TestNewcomerGetsLeasesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		defer l.stopAll()
		for i := 1; i <= 2; i++ {
			n := l.add(i).start(cluster("c"), joining("10.0.0.1"))
			if err := n.ring.SetLease(leaseOf(i, uint64(i))); err != nil {
				t.Fatal(err)
			}
		}
		l.allSee(2 * time.Second)
		n3 := l.add(3).start(joining("10.0.0.1"))
		n4 := l.add(4).start(cluster("other"), joining("10.0.0.1"))
		eventually(t, 3*time.Second, "n3 sees n1", func() bool { return n3.member("n1").State == gossip.StateAlive })
		time.Sleep(time.Minute)
		if n3.leases() != "" || n4.leases() != "" {
			t.Errorf("leases outside the cluster: %q, %q", n3.leases(), n4.leases())
		}
		if err := n3.ring.SetSelf(gossip.Meta{ClusterID: "c"}); err != nil {
			t.Fatal(err)
		}
		eventually(t, time.Second, "n3 has both leases", func() bool { return len(n3.ring.Leases()) == 2 })
	})
}

// TestBrokenFilesAreSetAside: what others can tell again does not stop a node.
func TestBrokenFilesAreSetAside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		defer l.stopAll()
		n := l.add(1)
		for _, f := range []string{"book.json", "leases.json", "incarnation"} {
			if err := os.WriteFile(filepath.Join(n.dir, f), []byte("{\"form"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		n.start(cluster("c"))
		for _, f := range []string{"book.json", "leases.json"} {
			if _, err := os.Stat(filepath.Join(n.dir, f+".bad")); err != nil {
				t.Error(err)
			}
		}
		if got := strings.Count(n.log.String(), "cannot be used and was renamed"); got != 2 {
			t.Errorf("%d files were complained about, want 2:\n%s", got, n.log)
		}
	})
}
