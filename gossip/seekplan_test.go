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
	p.want([]netip.AddrPort{a}, nil, t0)
	if names, addrs := p.take(t0); len(names) != 1 || len(addrs) != 1 {
		t.Fatalf("at first: %v, %v", names, addrs)
	}
	if names, addrs := p.take(t0.Add(time.Hour)); names != nil || addrs != nil {
		t.Fatalf("while busy: %v, %v", names, addrs)
	}
	p.doneName("name", t0, 0, 0.5)
	now := t0
	var pauses []time.Duration
	for range 8 {
		p.doneAddr(a, true, now, 1, 0.5)
		next := p.targets[a].due
		pauses = append(pauses, next.Sub(now))
		now = next
		p.take(now)
	}
	if most := seekPause(1); pauses[0] != seekFirst || pauses[1] != 2*seekFirst || pauses[7] != most {
		t.Errorf("pauses %v do not double up to %v", pauses, most)
	}
	p.doneAddr(a, true, now, 1, 0.5)

	p.hear(b, now, 0)
	if _, addrs := p.take(now); len(addrs) != 1 || addrs[0] != b {
		t.Errorf("a beacon was not followed: %v", addrs)
	}
	p.doneAddr(b, true, now, 1, 0.5)
	p.want([]netip.AddrPort{a}, nil, now)
	if p.targets[b] != nil {
		t.Error("the sender of one beacon is looked for for ever")
	}
	p.hear(a, now, 0) // tried a moment ago
	if due := p.targets[a].due; due.After(now.Add(seekHeardStep)) {
		t.Errorf("a beacon brought the next attempt forward to %v from now only", due.Sub(now))
	}
	p.want(nil, nil, now)
	p.doneName("name", now, 1, 0.5)
	p.hurry(now)
	if names, _ := p.take(now); len(names) != 1 {
		t.Error("hurry did not make the name due")
	}
}

// TestSeekPace: members that are missing are looked for at a pace that depends on how
// many look, those that left at an easy one; the whole ring stays within a bound.
func TestSeekPace(t *testing.T) {
	t0 := time.Unix(1000, 0)
	missing, left := netip.MustParseAddrPort("192.0.2.1:6443"), netip.MustParseAddrPort("192.0.2.2:6443")
	perMinute := func(others int) (tries map[netip.AddrPort]int) {
		p := newSeekPlan(nil, t0)
		p.want([]netip.AddrPort{missing}, []netip.AddrPort{left}, t0)
		tries = map[netip.AddrPort]int{}
		for now := t0; now.Before(t0.Add(11 * time.Minute)); now = p.next() {
			_, addrs := p.take(now)
			for _, a := range addrs {
				if now.After(t0.Add(time.Minute)) {
					tries[a]++
				}
				p.doneAddr(a, true, now, others, 0.5)
			}
		}
		return tries
	}
	for others, most := range map[int]int{0: 60, 1: 34, 2: 24, 9: 8, 12: 6, 500: 6} {
		tries := perMinute(others)
		if got := (tries[missing] + 5) / 10; got != most {
			t.Errorf("with %d others a missing member is tried %d times a minute, want %d", others, got, most)
		}
		if got := (tries[left] + 5) / 10; got != 6 {
			t.Errorf("with %d others one that left is tried %d times a minute, want 6", others, got)
		}
	}
	p := newSeekPlan(nil, t0)
	var many []netip.AddrPort
	for i := range 100 {
		many = append(many, netip.AddrPortFrom(missing.Addr(), uint16(1000+i)))
	}
	p.want(many, nil, t0)
	if _, addrs := p.take(t0); len(addrs) != seekParallel {
		t.Errorf("%d addresses are tried at once, want %d", len(addrs), seekParallel)
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
