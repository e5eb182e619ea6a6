package datapath

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func prefixes(list ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func peer(id string, revision uint64, addr string, subnets ...string) Peer {
	return Peer{NodeID: id, GrantRevision: revision, Addr: netip.MustParseAddr(addr), MAC: TunnelMAC(id), Subnets: prefixes(subnets...)}
}

func input() Input {
	return Input{
		NodeID: "self", Subnets: prefixes("10.42.1.0/24"), GrantRevision: 10,
		Underlay:     Underlay{Addr: netip.MustParseAddr("192.0.2.1"), Index: 2, MTU: 1500},
		ClusterCIDRs: prefixes("10.42.0.0/16"), ServiceCIDRs: prefixes("10.43.0.0/16"), ClusterDNS: netip.MustParseAddr("10.43.0.10"),
	}
}

func TestPlanPeers(t *testing.T) {
	in := input()
	in.Peers = []Peer{
		peer("b", 11, "192.0.2.2", "10.42.2.0/24"),
		peer("self", 10, "192.0.2.1", "10.42.1.0/24"),
		{NodeID: "c", GrantRevision: 12, Subnets: prefixes("10.42.3.0/24")}, // has not told its endpoint
	}
	got, complaints := Plan(in)
	if len(complaints) > 0 {
		t.Errorf("complaints: %v", complaints)
	}
	mac := TunnelMAC("b").String()
	want := Wanted{
		Bridge:     &Bridge{MAC: macOf("bridge", "self"), MTU: 1450, Addrs: prefixes("10.43.0.10/32", "10.42.1.1/24")},
		Tunnel:     &Tunnel{MAC: TunnelMAC("self"), MTU: 1450, Local: in.Underlay.Addr, Parent: 2, Addrs: prefixes("10.42.1.0/32")},
		Forwards:   []Forward{{MAC: mac, Addr: netip.MustParseAddr("192.0.2.2")}},
		Neighbours: []Neighbour{{Addr: netip.MustParseAddr("10.42.2.0"), MAC: mac}},
		Routes: []Route{
			{Dst: netip.MustParsePrefix("10.43.0.0/16"), Device: BridgeName, Src: netip.MustParseAddr("10.42.1.1")},
			{Dst: netip.MustParsePrefix("10.42.2.0/24"), Device: TunnelName, Via: netip.MustParseAddr("10.42.2.0")},
		},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("the plan differs (-want +got):\n%s", diff)
	}
}

func TestPlanGivesASubnetToItsNewestGrant(t *testing.T) {
	in := input()
	in.Peers = []Peer{peer("old", 11, "192.0.2.2", "10.42.2.0/24"), peer("new", 50, "192.0.2.3", "10.42.2.0/24")}
	got, _ := Plan(in)
	if len(got.Forwards) != 1 || got.Forwards[0].Addr != netip.MustParseAddr("192.0.2.3") {
		t.Errorf("the subnet leads to %v", got.Forwards)
	}
}

func TestPlanComplains(t *testing.T) {
	for what, tc := range map[string]struct {
		change func(*Input)
		want   string
	}{
		"own subnet granted again": {func(in *Input) { in.Peers = []Peer{peer("b", 99, "192.0.2.2", "10.42.1.0/24")} }, "granted again"},
		"small MTU":                {func(in *Input) { in.Underlay.MTU = 576 }, "MTU of 576"},
		"underlay in a range":      {func(in *Input) { in.Underlay.Addr = netip.MustParseAddr("10.42.200.1") }, "10.42.0.0/16"},
	} {
		in := input()
		tc.change(&in)
		got, complaints := Plan(in)
		if len(complaints) != 1 || !strings.Contains(complaints[0], tc.want) {
			t.Errorf("%s: complaints %q do not say %q", what, complaints, tc.want)
		}
		for _, r := range got.Routes {
			if r.Device == TunnelName {
				t.Errorf("%s: route %v", what, r)
			}
		}
	}
}

// TestPlanIsConsistent: whatever the leases say, no two routes overlap, every
// route has its neighbour and that its forwarding entry, and the order of leases
// does not matter.
func TestPlanIsConsistent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := input()
		for i := range rapid.IntRange(0, 12).Draw(t, "peers") {
			in.Peers = append(in.Peers, peer(
				fmt.Sprintf("node-%d", rapid.IntRange(0, 8).Draw(t, "id")), uint64(rapid.IntRange(0, 20).Draw(t, "revision")),
				fmt.Sprintf("192.0.2.%d", 10+i),
				fmt.Sprintf("10.42.%d.0/%d", rapid.IntRange(0, 5).Draw(t, "subnet"), rapid.IntRange(22, 25).Draw(t, "bits"))))
		}
		got, _ := Plan(in)
		macs := map[netip.Addr]string{}
		for _, n := range got.Neighbours {
			macs[n.Addr] = n.MAC
		}
		forwards := map[string]bool{}
		for _, f := range got.Forwards {
			if forwards[f.MAC] {
				t.Fatalf("%s is forwarded twice", f.MAC)
			}
			forwards[f.MAC] = true
		}
		for i, r := range got.Routes {
			for _, o := range got.Routes[:i] {
				if o.Dst.Overlaps(r.Dst) {
					t.Fatalf("routes %s and %s overlap", o.Dst, r.Dst)
				}
			}
			if r.Device == TunnelName && !forwards[macs[r.Via]] {
				t.Fatalf("route %v leads nowhere", r)
			}
			if r.Dst.Overlaps(in.Subnets[0]) {
				t.Fatalf("route %v leads this node's own pods away", r)
			}
		}
		ids := map[string]bool{}
		for _, p := range in.Peers {
			if ids[p.NodeID] {
				return // one lease a node is what the ring gives
			}
			ids[p.NodeID] = true
		}
		in.Peers = rapid.Permutation(in.Peers).Draw(t, "order")
		again, _ := Plan(in)
		if fmt.Sprint(again.Routes, again.Forwards, again.Neighbours) != fmt.Sprint(got.Routes, got.Forwards, got.Neighbours) {
			t.Fatalf("the order of leases matters:\n%v\n%v", got, again)
		}
	})
}
