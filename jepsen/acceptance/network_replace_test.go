package acceptance

import (
	"context"
	"fmt"
	"testing"
)

// TestNetworkOfReplacedNode wipes a machine's disk and starts it again: another
// node of the same name takes over the subnet, and packets go to it, not to what
// was there before.
func TestNetworkOfReplacedNode(t *testing.T) {
	c := newCluster(t, "netr", 3)
	program := c.probes(t)
	ways := func(ctx context.Context) error {
		for _, h := range c.Hosts() {
			if err := c.ways(ctx, h); err != nil {
				return err
			}
			r, err := c.netReport(ctx, h)
			if err != nil {
				return err
			}
			var all []expectation
			for _, l := range r.Leases {
				if l.Used == "yes" {
					// The node's own address among its pods answers through the tunnel.
					all = append(all, expectation{question: question{Kind: "ping", To: l.Subnets[0].Addr().Next().String(), Size: 1450, Whole: true}})
				}
			}
			if err := fromNode(h, program).expect(ctx, all); err != nil {
				return err
			}
		}
		return nil
	}
	c.eventually(t, "ways between all nodes", ways)
	victim := c.Hosts()[2]
	before, err := c.netReport(t.Context(), victim)
	if err != nil {
		t.Fatal(err)
	}
	if err := victim.Wipe(); err != nil {
		t.Fatal(err)
	}
	if err := victim.Start("--replace"); err != nil {
		t.Fatal(err)
	}
	c.eventually(t, "ways to the node that took its place", func(ctx context.Context) error {
		now, err := c.netReport(ctx, victim)
		if err != nil {
			return err
		}
		if now.NodeID == before.NodeID {
			t.Fatalf("the wiped node is still %s", before.NodeID)
		}
		first, err := c.netReport(ctx, c.Hosts()[0])
		if err != nil {
			return err
		}
		for _, l := range first.Leases {
			if l.NodeID == before.NodeID && l.Used == "yes" {
				return fmt.Errorf("packets still go to the node that is no more: %+v", l)
			}
		}
		return ways(ctx)
	})
}
