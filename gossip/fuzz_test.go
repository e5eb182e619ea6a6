package gossip

import (
	"bytes"
	"math"
	"net/netip"
	"reflect"
	"testing"
)

var sampleMeta = metadata{name: "worker-1", zone: "z", version: "v0.1.0", clusterID: "c1", clusterPort: 6443, leaving: true,
	form: &formStance{expect: 3, settings: [8]byte{1, 2}, bound: "n1"}, keyStep: 300, epoch: "2-0123456789abc"}

func TestMetadataFits(t *testing.T) {
	long := func(n int) string { return string(bytes.Repeat([]byte{'x'}, n)) }
	m := metadata{name: long(maxNameLen), zone: long(maxZoneLen), version: long(maxVersionLen), clusterID: long(maxIDLen),
		clusterPort: 65535, form: &formStance{expect: maxExpect, bound: long(maxIDLen)}, keyStep: math.MaxUint64, epoch: long(maxEpochLen)}
	if n := len(m.encode()); n > 512 {
		t.Errorf("the longest metadata takes %d bytes, memberlist allows 512", n)
	}
}

func FuzzMetadata(f *testing.F) {
	f.Add(sampleMeta.encode())
	f.Add(metadata{}.encode())
	f.Add([]byte{metaVersion, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMetadata(b)
		if err != nil {
			return
		}
		again, err := decodeMetadata(m.encode())
		if err != nil || !reflect.DeepEqual(again, m) {
			t.Errorf("%+v came back as %+v, %v", m, again, err)
		}
	})
}

func FuzzPushState(f *testing.F) {
	l := Lease{NodeID: "n1", Subnets: subnets("10.42.1.0/24", "fd00:1::/64"), GrantRevision: 9,
		Endpoint: Endpoint{Addr: netip.MustParseAddr("192.0.2.1"), MAC: []byte{2, 0, 0, 0, 0, 1}, MTU: 1450, Sequence: 3}}
	one, err := encodeLease("c", l)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(one[1:])
	whole, err := pack(pushState{Cluster: "c", Cards: []card{{ID: "n2", Name: "two", Addr: "192.0.2.2", ClusterPort: 6443, ClusterID: "c", Incarnation: 4}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte{0xdf, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodePushState(b)
		if err != nil {
			return
		}
		for _, l := range s.leases {
			again, err := l.wire().lease()
			if err != nil || !again.equal(l) {
				t.Errorf("lease %+v came back as %+v, %v", l, again, err)
			}
		}
		for _, m := range s.members {
			if again, err := cardOf(m).member(); err != nil || again != m {
				t.Errorf("member %+v came back as %+v, %v", m, again, err)
			}
		}
	})
}

func FuzzBeacon(f *testing.F) {
	key := beaconKey(bytes.Repeat([]byte{1}, 32))
	good := beacon{nodeID: "n1", clusterID: "c", clusterPort: 6443}.encode(key)
	f.Add(good, false)
	f.Add(good[:len(good)-32], true)
	f.Fuzz(func(t *testing.T, b []byte, sign bool) {
		if sign {
			b = append(bytes.Clone(b), beaconSum(key, b)...)
		}
		got, err := decodeBeacon(key, b)
		if err != nil {
			return
		}
		if again, err := decodeBeacon(key, got.encode(key)); err != nil || again != got {
			t.Errorf("%+v came back as %+v, %v", got, again, err)
		}
		if _, err := decodeBeacon(beaconKey(make([]byte, 32)), b); err == nil {
			t.Error("another key's beacon was taken")
		}
	})
}

func FuzzFormMsg(f *testing.F) {
	p := &proposal{ID: proposalID{"a", 1}, ClusterID: "c", Expect: 2, Settings: []byte("s"), Members: []string{"a", "b"}}
	for _, m := range []formMsg{
		{Kind: msgPropose, From: "a", ID: p.ID, Proposal: p},
		{Kind: msgGrant, From: "a", ID: p.ID, Proposal: p, Payload: []byte("grant")},
		{Kind: msgRefuse, From: "b", ID: p.ID, Reason: refuseBusy, Other: "c"},
	} {
		var b bytes.Buffer
		if err := writeFormMsg(&b, m); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := readFormMsg(bytes.NewReader(b))
		if err != nil {
			return
		}
		// Whatever decodes must not bring a node down, in any state.
		for _, st := range []formState{{NodeID: "b"}, {NodeID: "b", Promised: p}, {NodeID: "a", Number: 1, Promised: p}} {
			fm := newFormer(st.NodeID, 2, []byte("s"), []byte("r"), st, "")
			fm.step(formInput{msg: &m})
		}
	})
}
