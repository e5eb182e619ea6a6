package gossip

import (
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func genLease(node string) *rapid.Generator[Lease] {
	return rapid.Custom(func(t *rapid.T) Lease {
		l := Lease{NodeID: node, GrantRevision: rapid.Uint64Range(0, 3).Draw(t, "revision")}
		for i := range rapid.IntRange(0, 2).Draw(t, "subnets") {
			l.Subnets = append(l.Subnets, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), byte(rapid.IntRange(0, 2).Draw(t, "net")), 0}), 24))
		}
		l.Endpoint = Endpoint{Sequence: rapid.Uint64Range(0, 3).Draw(t, "sequence"), MTU: rapid.IntRange(1400, 1402).Draw(t, "mtu"),
			Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(rapid.IntRange(1, 2).Draw(t, "host"))}), MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}}
		return l
	})
}

// TestMergeLeaseIsALattice: whatever the order and the repetitions, nodes that
// heard the same leases hold the same.
func TestMergeLeaseIsALattice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := genLease("n")
		a, b, c := g.Draw(t, "a"), g.Draw(t, "b"), g.Draw(t, "c")
		if x, y := mergeLease(a, b), mergeLease(b, a); !x.equal(y) {
			t.Fatalf("merge depends on the order: %v, %v", x, y)
		}
		if x, y := mergeLease(mergeLease(a, b), c), mergeLease(a, mergeLease(b, c)); !x.equal(y) {
			t.Fatalf("merge is not associative: %v, %v", x, y)
		}
		if x := mergeLease(a, a); !x.equal(a) {
			t.Fatalf("merge with itself changed a lease: %v", x)
		}
		if m := mergeLease(a, b); m.GrantRevision < max(a.GrantRevision, b.GrantRevision) || m.Endpoint.Sequence < max(a.Endpoint.Sequence, b.Endpoint.Sequence) {
			t.Fatalf("merge went back: %v", m)
		}
	})
}

func TestLeaseRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := genLease("n1").Draw(t, "lease")
		b, err := encodeLease("c", l)
		if err != nil {
			t.Fatal(err)
		}
		s, err := decodePushState(b[1:])
		if err != nil || s.cluster != "c" || len(s.leases) != 1 || !s.leases[0].equal(l) {
			t.Fatalf("%v came back as %+v, %v", l, s, err)
		}
	})
}

func subnets(s ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func TestOwnEndpointOutranksWhatOthersHold(t *testing.T) {
	at := func(a string, seq uint64) Endpoint { return Endpoint{Addr: netip.MustParseAddr(a), Sequence: seq} }
	tab := newLeaseTable("n")
	l, changed := tab.set(Lease{NodeID: "n", Endpoint: at("192.0.2.1", 0)})
	if !changed || l.Endpoint.Sequence != 1 {
		t.Fatalf("first lease: %+v, %v", l, changed)
	}
	if l, changed = tab.set(Lease{NodeID: "n", Endpoint: at("192.0.2.1", 0)}); changed {
		t.Errorf("setting the same again made %+v", l)
	}
	if l, _ = tab.set(Lease{NodeID: "n", Endpoint: at("192.0.2.2", 0)}); l.Endpoint.Sequence != 2 {
		t.Errorf("a new endpoint has sequence %d, want 2", l.Endpoint.Sequence)
	}
	// Another node remembers a later endpoint, from a data directory that is gone.
	if l, changed = tab.merge(Lease{NodeID: "n", Endpoint: at("192.0.2.9", 7)}); !changed || l.Endpoint.Sequence != 8 || l.Endpoint.Addr != netip.MustParseAddr("192.0.2.2") {
		t.Errorf("the own endpoint gave way: %+v", l)
	}
	// What others know of the grant is taken.
	if l, changed = tab.merge(Lease{NodeID: "n", Subnets: subnets("10.42.1.0/24"), GrantRevision: 5}); !changed || len(l.Subnets) != 1 || l.Endpoint.Sequence != 8 {
		t.Errorf("the grant was not taken: %+v", l)
	}
	if _, changed = tab.merge(Lease{NodeID: "n", Subnets: subnets("10.42.9.0/24"), GrantRevision: 4}); changed {
		t.Error("an older grant was taken")
	}
}

func TestNewerGrantTakesASubnet(t *testing.T) {
	tab := newLeaseTable("self")
	tab.merge(Lease{NodeID: "a", Subnets: subnets("10.42.1.0/24", "fd00:1::/64"), GrantRevision: 5})
	tab.merge(Lease{NodeID: "b", Subnets: subnets("10.42.1.0/24"), GrantRevision: 9})
	tab.merge(Lease{NodeID: "c", Subnets: subnets("10.42.0.0/16", "10.42.2.0/24"), GrantRevision: 7})
	got := map[string]string{}
	for _, l := range tab.effective() {
		got[l.NodeID] = fmt.Sprint(l.Subnets)
	}
	want := map[string]string{"a": "[fd00:1::/64]", "b": "[10.42.1.0/24]", "c": "[10.42.2.0/24]"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("effective leases: %v, want %v", got, want)
	}
}

// TestPrefixSetAgainstPlain compares the look-ups with a scan of everything.
func TestPrefixSetAgainstPlain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newPrefixSet()
		var plain []netip.Prefix
		for range rapid.IntRange(1, 40).Draw(t, "count") {
			b := rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "address")
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, b[1] & 3, b[2] & 3, b[3]}), rapid.IntRange(12, 32).Draw(t, "bits")).Masked()
			free := true
			for _, q := range plain {
				free = free && !q.Overlaps(p)
			}
			if got := s.add(p); got != free {
				t.Fatalf("add(%v) = %v after %v", p, got, plain)
			}
			if free {
				plain = append(plain, p)
			}
		}
	})
}

// TestQueueKeepsAllOfOneLength: a node's second lease takes the place of its first, and
// of no other.
func TestQueueKeepsAllOfOneLength(t *testing.T) {
	q := newQueue(func() int { return 5 })
	for i, node := range []string{"a", "a", "b", "c"} {
		q.QueueBroadcast(&leaseBroadcast{node: node, msg: fmt.Appendf(nil, "%s%d", node, i)})
	}
	var got []string
	for _, b := range q.GetBroadcasts(0, 1000) {
		got = append(got, string(b))
	}
	slices.Sort(got)
	if !slices.Equal(got, []string{"a1", "b2", "c3"}) {
		t.Errorf("sent %q", got)
	}
	for range 100 {
		q.GetBroadcasts(0, 1000)
	}
	if left := q.NumQueued(); left != 1 {
		t.Errorf("%d lie in the queue after all were sent, want only what keeps it from being empty", left)
	}
}
