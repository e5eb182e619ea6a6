package gossip

import (
	"net/netip"
	"time"
)

const (
	seekFirst     = 200 * time.Millisecond
	seekSoonest   = time.Second            // longest pause between attempts of a node that is alone
	seekShare     = 750 * time.Millisecond // by so much longer for each other node that looks, too
	seekLatest    = 10 * time.Second       // but no longer than that
	seekNames     = 10 * time.Second       // longest pause between look-ups of a name while somebody is in touch
	seekParallel  = 4
	seekHeardStep = time.Second // a beacon brings an attempt forward to no less than this after the last
	maxHeard      = 256
)

// seekPlan decides whom to try to reach, and when: pure, with the time and the
// randomness given. Targets are cluster addresses (of missing members and from
// beacons) and names (of Config.Join, looked up before they become addresses).
type seekPlan struct {
	names   map[string]*attempt
	targets map[netip.AddrPort]*attempt
}

// attempt is the history of one target.
type attempt struct {
	due, last time.Time
	pause     time.Duration
	fails     int // in a row
	busy      bool
	wanted    bool // still asked for by a member's absence or a name's answer
	calm      bool // the member said that it leaves: it will knock by itself
	heard     bool // asked for by a beacon; tried once, then dropped
}

func newSeekPlan(names []string, now time.Time) *seekPlan {
	p := &seekPlan{names: map[string]*attempt{}, targets: map[netip.AddrPort]*attempt{}}
	for _, n := range names {
		p.names[n] = &attempt{due: now}
	}
	return p
}

// want replaces the addresses that are asked for: of those that are missing, and of
// members that left in an orderly way.
func (p *seekPlan) want(missing, left []netip.AddrPort, now time.Time) {
	for _, a := range p.targets {
		a.wanted = false
	}
	ask := func(addr netip.AddrPort, calm bool) {
		a := p.targets[addr]
		if a == nil {
			a = &attempt{due: now}
			p.targets[addr] = a
		}
		a.wanted, a.calm = true, calm
	}
	for _, addr := range left {
		ask(addr, true)
	}
	for _, addr := range missing {
		ask(addr, false)
	}
	for addr, a := range p.targets {
		if !a.wanted && !a.heard && !a.busy {
			delete(p.targets, addr)
		}
	}
}

// hear takes a beacon: reach its sender after delay, unless it was just tried.
func (p *seekPlan) hear(addr netip.AddrPort, now time.Time, delay time.Duration) {
	a := p.targets[addr]
	if a == nil {
		if len(p.targets) >= maxHeard {
			return
		}
		a = &attempt{due: now.Add(delay)}
		p.targets[addr] = a
	}
	a.heard = true
	if soon := later(now.Add(delay), a.last.Add(seekHeardStep)); soon.Before(a.due) {
		a.due = soon
	}
}

// hurry makes everything due: the node has just lost everybody, or entered anew.
func (p *seekPlan) hurry(now time.Time) {
	for _, a := range p.names {
		a.due, a.pause = now, 0
	}
	for _, a := range p.targets {
		a.due, a.pause = now, 0
	}
}

// take returns what to try now and marks it busy.
func (p *seekPlan) take(now time.Time) (names []string, addrs []netip.AddrPort) {
	busy := 0
	for _, a := range p.targets {
		if a.busy {
			busy++
		}
	}
	for n, a := range p.names {
		if !a.busy && !now.Before(a.due) {
			a.busy, a.last = true, now
			names = append(names, n)
		}
	}
	for addr, a := range p.targets { // in random order
		if busy < seekParallel && !a.busy && !now.Before(a.due) {
			a.busy, a.last = true, now
			addrs = append(addrs, addr)
			busy++
		}
	}
	return names, addrs
}

// seekPause is the longest pause between attempts at one address by a node that others
// others are in touch with. All of them look for the same members and one that finds
// tells the rest, so each may look less often: together they try an address about 80
// times a minute, from some fourteen nodes on each six times.
func seekPause(others int) time.Duration {
	return min(seekSoonest+time.Duration(others)*seekShare, seekLatest)
}

// doneName and doneAddr take the end of an attempt; whether it helped shows in what
// is wanted. rnd is from 0 to 1. doneAddr returns the failures in a row.
func (p *seekPlan) doneName(name string, now time.Time, others int, rnd float64) {
	longest := seekNames
	if others == 0 {
		longest = seekPause(0)
	}
	p.names[name].done(now, longest, rnd)
}

func (p *seekPlan) doneAddr(addr netip.AddrPort, failed bool, now time.Time, others int, rnd float64) (fails int) {
	a := p.targets[addr]
	if a == nil {
		return 0
	}
	if a.fails++; !failed {
		a.fails = 0
	}
	a.heard = false
	longest := seekPause(others)
	if a.calm {
		longest = seekLatest
	}
	a.done(now, longest, rnd)
	return a.fails
}

func (a *attempt) done(now time.Time, longest time.Duration, rnd float64) {
	a.busy = false
	a.pause = min(max(2*a.pause, seekFirst), longest)
	a.due = now.Add(time.Duration((0.75 + 0.5*rnd) * float64(a.pause)))
}

// next is when take has to be called again; zero if nothing is pending.
func (p *seekPlan) next() time.Time {
	var t time.Time
	soon := func(a *attempt) {
		if !a.busy && (t.IsZero() || a.due.Before(t)) {
			t = a.due
		}
	}
	for _, a := range p.names {
		soon(a)
	}
	busy := 0
	for _, a := range p.targets {
		if a.busy {
			busy++
		}
	}
	if busy < seekParallel { // else the end of one wakes the loop
		for _, a := range p.targets {
			soon(a)
		}
	}
	return t
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
