package dns

import (
	"context"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	maxCached = 10_000
	// maxKept bounds how long an answer is kept whatever its TTL says, maxDenied
	// how long that there is none.
	maxKept   = time.Hour
	maxDenied = 30 * time.Second
)

// question tells apart what upstreams may answer differently.
type question struct {
	name      string // canonical
	kind      uint16
	dnssec    bool // DO
	unchecked bool // CD
}

type cached struct {
	msg     *dns.Msg // nobody changes it
	at      time.Time
	expires time.Time
}

// flight is a question that is being asked.
type flight struct {
	done chan struct{}
	msg  *dns.Msg
	err  error
}

// memory remembers what upstreams said for as long as they allow, and asks them
// once what many ask at the same time.
type memory struct {
	now func() time.Time
	ask func(context.Context, *dns.Msg) (*dns.Msg, error)

	mu      sync.Mutex // protects the fields below
	entries map[question]cached
	flights map[question]*flight
}

func newCache(now func() time.Time, ask func(context.Context, *dns.Msg) (*dns.Msg, error)) *memory {
	return &memory{now: now, ask: ask, entries: map[question]cached{}, flights: map[question]*flight{}}
}

// get returns an answer to req that is the caller's own, and whether it was known.
func (c *memory) get(ctx context.Context, req *dns.Msg) (msg *dns.Msg, hit bool, err error) {
	q := question{name: dns.CanonicalName(req.Question[0].Name), kind: req.Question[0].Qtype, unchecked: req.CheckingDisabled}
	if opt := req.IsEdns0(); opt != nil {
		q.dnssec = opt.Do()
	}
	c.mu.Lock()
	now := c.now()
	if e, ok := c.entries[q]; ok && now.Before(e.expires) {
		c.mu.Unlock()
		return aged(e.msg, now.Sub(e.at)), true, nil
	}
	f, waiting := c.flights[q]
	if !waiting {
		f = &flight{done: make(chan struct{})}
		c.flights[q] = f
	}
	c.mu.Unlock()
	if waiting {
		select {
		case <-f.done:
			if f.err != nil {
				return nil, false, f.err
			}
			return f.msg.Copy(), false, nil
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
	}
	f.msg, f.err = c.ask(ctx, req)
	c.mu.Lock()
	delete(c.flights, q)
	if f.err == nil {
		if keep := keepFor(f.msg); keep > 0 {
			c.makeRoomLocked()
			c.entries[q] = cached{f.msg, c.now(), c.now().Add(keep)}
		}
	}
	c.mu.Unlock()
	close(f.done)
	if f.err != nil {
		return nil, false, f.err
	}
	return f.msg.Copy(), false, nil
}

// forget empties the cache.
func (c *memory) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entries = map[question]cached{}
}

// Forget has upstreams asked anew: they may be others now.
func (s *Server) Forget() { s.cache.forget() }

// makeRoomLocked drops any entry when there are too many; expired ones among the
// first few it meets before others.
func (c *memory) makeRoomLocked() {
	if len(c.entries) < maxCached {
		return
	}
	var victim question
	seen, now := 0, c.now()
	for q, e := range c.entries {
		victim = q
		if seen++; seen > 8 || !now.Before(e.expires) {
			break
		}
	}
	delete(c.entries, victim)
}

// keepFor is how long an answer may be kept (RFC 2308 for what does not exist).
func keepFor(m *dns.Msg) time.Duration {
	if m.Truncated {
		return 0
	}
	least := maxKept
	for _, list := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range list {
			if rr.Header().Rrtype != dns.TypeOPT {
				least = min(least, time.Duration(rr.Header().Ttl)*time.Second)
			}
		}
	}
	switch {
	case m.Rcode == dns.RcodeSuccess && len(m.Answer) > 0:
		return least
	case m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError:
		return 0
	}
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			return min(least, maxDenied, time.Duration(soa.Minttl)*time.Second)
		}
	}
	return 0 // nothing says for how long
}

// aged is a copy of m whose records have that much less to live.
func aged(m *dns.Msg, age time.Duration) *dns.Msg {
	out := m.Copy()
	gone := uint32(age / time.Second)
	for _, list := range [][]dns.RR{out.Answer, out.Ns, out.Extra} {
		for _, rr := range list {
			if h := rr.Header(); h.Rrtype != dns.TypeOPT {
				h.Ttl -= min(h.Ttl, gone)
			}
		}
	}
	return out
}
