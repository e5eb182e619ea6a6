package gossip_test

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"kontiki/gossip"
)

const second = "2-0123456789abc"

func epoch(e string) option { return func(c *gossip.Config) { c.Meta.Epoch = e } }

// Members of two epochs of one cluster refuse each other, and both tell; leases and the
// address book of one do not get into the other. A blank node turns to the later epoch.
func TestEpochsRefuseEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		var left, recovered refusals
		old := l.add(1).start(cluster("c"), left.option())
		lease := gossip.Lease{Subnets: []netip.Prefix{netip.MustParsePrefix("10.42.1.0/24")}, GrantRevision: 7}
		if err := old.ring.SetLease(lease); err != nil {
			t.Fatal(err)
		}
		l.add(2).start(cluster("c"), joining("10.0.0.1"))
		fresh := l.add(3).start(cluster("c"), epoch(second), joining("10.0.0.1"), recovered.option())
		defer l.stopAll()
		eventually(t, time.Minute, "both sides tell", func() bool {
			return left.count(gossip.Refusal{Kind: gossip.RefusedEpoch, ID: "n3", Name: "name-n3", Addr: l.addr(3), ClusterID: "c", Epoch: second}) > 0 &&
				recovered.count(gossip.Refusal{Kind: gossip.RefusedEpoch, ID: "n1", Name: "name-n1", Addr: l.addr(1), ClusterID: "c"}) > 0
		})
		if got := fresh.states(); got != "n3 alive" {
			t.Errorf("the recovered part sees %s", got)
		}
		eventually(t, time.Minute, "the old part to be whole, and alone", func() bool { return old.states() == "n1 alive, n2 alive" })
		if got := fresh.ring.Leases(); len(got) != 0 {
			t.Errorf("the recovered part has the lease %v", got)
		}
		blank := l.add(4).start(joining("10.0.0.1", "10.0.0.3"))
		eventually(t, time.Minute, "the blank node sees both", func() bool { return blank.states() == "n1 alive, n2 alive, n3 alive, n4 alive" })
		o := await(t, blank.form(1), time.Minute, "n4")
		if o.Kind != gossip.Met || o.ClusterID != "c" || len(o.Through) != 1 || o.Through[0].ID != "n3" {
			t.Errorf("the blank node met %+v", o)
		}
	})
}

// A member that was emptied comes back under its id in the later epoch.
func TestEmptiedMemberEntersLaterEpoch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.add(1).start(cluster("c"), epoch(second))
		n2 := l.add(2).start(cluster("c"), joining("10.0.0.1"))
		defer l.stopAll()
		time.Sleep(10 * time.Second) // refused meanwhile
		n2.stop()
		if err := gossip.Forget(n2.dir); err != nil {
			t.Fatal(err)
		}
		n2.start(joining("10.0.0.1"))
		eventually(t, time.Minute, "n1 sees the blank n2", func() bool { return l.nodes["n1"].states() == "n1 alive, n2 alive" })
		if err := n2.ring.SetSelf(gossip.Meta{ClusterID: "c", Epoch: second}); err != nil {
			t.Fatal(err)
		}
		eventually(t, time.Minute, "n1 sees n2 in its epoch", func() bool { return l.nodes["n1"].member("n2").Epoch == second })
		if err := n2.ring.SetSelf(gossip.Meta{ClusterID: "c"}); err == nil {
			t.Error("a member went back to an earlier epoch")
		}
	})
}
