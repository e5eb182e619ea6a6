package gossip

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

func TestSeekPlan(t *testing.T) {
	t0 := time.Unix(1000, 0)
	a, b := netip.MustParseAddrPort("192.0.2.1:6443"), netip.MustParseAddrPort("192.0.2.2:6443")
	p := newSeekPlan([]string{"name"}, t0)
	p.want([]netip.AddrPort{a}, t0)
	if names, addrs := p.take(t0); len(names) != 1 || len(addrs) != 1 {
		t.Fatalf("at first: %v, %v", names, addrs)
	}
	if names, addrs := p.take(t0.Add(time.Hour)); names != nil || addrs != nil {
		t.Fatalf("while busy: %v, %v", names, addrs)
	}
	p.doneName("name", t0, true, 0.5)
	now := t0
	var pauses []time.Duration
	for range 8 {
		p.doneAddr(a, true, now, false, 0.5)
		next := p.targets[a].due
		pauses = append(pauses, next.Sub(now))
		now = next
		p.take(now)
	}
	if pauses[0] != seekFirst || pauses[1] != 2*seekFirst || pauses[7] != seekCompany {
		t.Errorf("pauses %v do not double up to %v", pauses, seekCompany)
	}
	p.doneAddr(a, true, now, false, 0.5)

	p.hear(b, now, 0)
	if _, addrs := p.take(now); len(addrs) != 1 || addrs[0] != b {
		t.Errorf("a beacon was not followed: %v", addrs)
	}
	p.doneAddr(b, true, now, false, 0.5)
	p.want([]netip.AddrPort{a}, now)
	if p.targets[b] != nil {
		t.Error("the sender of one beacon is looked for for ever")
	}
	p.hear(a, now, 0) // tried a moment ago
	if due := p.targets[a].due; due.After(now.Add(seekHeardStep)) {
		t.Errorf("a beacon brought the next attempt forward to %v from now only", due.Sub(now))
	}
	p.want(nil, now)
	p.doneName("name", now, false, 0.5)
	p.hurry(now)
	if names, _ := p.take(now); len(names) != 1 {
		t.Error("hurry did not make the name due")
	}
}

func TestSplitJoin(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1": "192.0.2.1 6443", "192.0.2.1:7000": "192.0.2.1 7000", "fd00::1": "fd00::1 6443", "[fd00::1]:7000": "fd00::1 7000",
		"[fd00::1]": "fd00::1 6443", "node1": "node1 6443", "node1.example:7000": "node1.example 7000",
		"node1:0": "", "node1:x": "", ":7000": "", "": "", "node1:70000": "", "a:b:c": "",
	} {
		host, port, err := splitJoin(in, 6443)
		got := ""
		if err == nil {
			got = fmt.Sprint(host, " ", port)
		}
		if got != want {
			t.Errorf("splitJoin(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
}
