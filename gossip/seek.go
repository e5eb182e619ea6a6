package gossip

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"
)

const (
	lookupTimeout = 3 * time.Second
	seekPatience  = 5 // failures in a row before a named address is complained about
)

// seekResult is the end of one attempt.
type seekResult struct {
	name  string // of a look-up
	found []netip.AddrPort
	addr  netip.AddrPort // of a join
	err   error
}

// seek looks for other nodes for as long as any is missing: memberlist does not
// heal a split whose sides hold each other for dead, so somebody has to knock.
func (r *Ring) seek(ctx context.Context) error {
	wake, stop := r.seekWake.watch()
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	results := make(chan seekResult)
	plan := newSeekPlan(r.cfg.Join, time.Now())
	known := map[string][]netip.AddrPort{} // what each name last resolved to
	complained := map[string]bool{}
	var wasJoin bool
	wasAlone := true
	for {
		now := time.Now()
		missing, left, others, join := r.wanted(known)
		alone := others == 0
		if alone && !wasAlone || (join != nil) && !wasJoin {
			plan.hurry(now)
		}
		wasAlone, wasJoin = alone, join != nil
		plan.want(missing, left, now)
		var next time.Time
		if join != nil {
			names, addrs := plan.take(now)
			for _, n := range names {
				wg.Go(func() { r.send(ctx, results, r.resolve(ctx, n)) })
			}
			for _, a := range addrs {
				wg.Go(func() { r.send(ctx, results, seekResult{addr: a, err: join(a)}) })
			}
			next = plan.next()
		}
		timer, stopTimer := alarm(next)
		select {
		case <-timer:
		case <-wake:
		case a := <-r.heard:
			plan.hear(a, time.Now(), r.heardDelay())
		case res := <-results:
			if res.name != "" {
				if res.err == nil {
					known[res.name] = res.found
				}
				r.complain(complained, res)
				plan.doneName(res.name, time.Now(), others, rand.Float64())
			} else {
				fails := plan.doneAddr(res.addr, res.err != nil, time.Now(), others, rand.Float64())
				if fails == seekPatience && named(known, res.addr) {
					r.log.Warn("an address to join cannot be reached; it is tried again", "address", res.addr, "error", res.err)
				}
			}
		case <-r.entered:
			if a, ok := r.neighbour(); ok && join != nil {
				wg.Go(func() { r.send(ctx, results, seekResult{addr: a, err: join(a)}) })
			}
		case <-ctx.Done():
			stopTimer()
			return nil
		}
		stopTimer()
	}
}

// named tells whether an address comes from Config.Join.
func named(known map[string][]netip.AddrPort, addr netip.AddrPort) bool {
	for _, found := range known {
		if slices.Contains(found, addr) {
			return true
		}
	}
	return false
}

// neighbour returns a member in touch, for a push-pull out of turn.
func (r *Ring) neighbour() (netip.AddrPort, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.dir.members {
		if e.met && e.State == StateAlive && e.ClusterID == r.dir.self.ClusterID {
			return e.ClusterAddr(), true
		}
	}
	return netip.AddrPort{}, false
}

func (r *Ring) send(ctx context.Context, results chan<- seekResult, res seekResult) {
	select {
	case results <- res:
	case <-ctx.Done():
	}
}

// complain says once that a name of Join cannot be resolved, until it can.
func (r *Ring) complain(complained map[string]bool, res seekResult) {
	if res.err != nil && !complained[res.name] {
		r.log.Warn("a name to join cannot be resolved; it is tried again", "name", res.name, "error", res.err)
	}
	complained[res.name] = res.err != nil
}

// wanted lists the addresses where a node is missing, and where one has left. others is
// how many nodes are in touch beside this one.
func (r *Ring) wanted(known map[string][]netip.AddrPort) (missing, left []netip.AddrPort, others int, join func(netip.AddrPort) error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	missing, left = r.dir.missing()
	for _, found := range known {
		for _, a := range found {
			if !r.dir.inTouch(a) && !slices.Contains(left, a) {
				missing = append(missing, a)
			}
		}
	}
	return missing, left, r.dir.othersAlive(), r.join
}

// heardDelay spreads the answers to a beacon over the nodes that heard it.
func (r *Ring) heardDelay() time.Duration {
	n := int(r.size.Load())
	if n < 4 {
		return 0
	}
	return time.Duration(rand.Float64() * float64(n) * float64(20*time.Millisecond))
}

// resolve looks up one entry of Join: an address or a name, with or without port.
func (r *Ring) resolve(ctx context.Context, entry string) seekResult {
	res := seekResult{name: entry}
	host, port, err := splitJoin(entry, r.cfg.ClusterPort)
	if err != nil {
		res.err = err
		return res
	}
	if a, err := netip.ParseAddr(host); err == nil {
		res.found = []netip.AddrPort{netip.AddrPortFrom(a.Unmap(), port)}
		return res
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	lookup := r.cfg.Lookup
	if lookup == nil {
		lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	addrs, err := lookup(ctx, host)
	if err != nil {
		res.err = err
		return res
	}
	for _, a := range addrs {
		res.found = append(res.found, netip.AddrPortFrom(a.Unmap(), port))
	}
	return res
}

// splitJoin takes host, host:port, address, address:port, [address] and [address]:port.
func splitJoin(entry string, defaultPort uint16) (string, uint16, error) {
	if a, err := netip.ParseAddr(entry); err == nil {
		return a.String(), defaultPort, nil
	}
	host, p, err := net.SplitHostPort(entry)
	if err != nil {
		var ae *net.AddrError
		if errors.As(err, &ae) && ae.Err == "missing port in address" {
			if h, _, err := net.SplitHostPort(entry + ":0"); err == nil && h != "" {
				return h, defaultPort, nil
			}
		}
		return "", 0, err
	}
	port, err := strconv.ParseUint(p, 10, 16)
	if err != nil || port == 0 || host == "" {
		return "", 0, errors.New("gossip: want a host, or host:port with a port from 1 to 65535")
	}
	return host, uint16(port), nil
}
