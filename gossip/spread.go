package gossip

import (
	"context"
	"net/netip"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	storeDelay = 100 * time.Millisecond // changes come in bursts; one write takes them all
	storeRetry = 5 * time.Second
)

// SetLease sets this node's own subnets and endpoint and spreads them. NodeID may
// be empty. The endpoint's sequence is chosen here: it grows when the endpoint
// differs from the last known one. A grant older than the known one is ignored.
func (r *Ring) SetLease(l Lease) error {
	l.NodeID = r.cfg.NodeID
	if err := l.validate(); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := encodeLease(r.dir.self.allegiance(), l); err != nil {
		return err
	}
	if out, changed := r.leases.set(l); changed {
		r.leaseChangedLocked([]Lease{out})
	}
	return nil
}

// Leases returns the newest known lease of every node, alive or not, by node id.
// A subnet that a newer grant gave to another node is left out.
func (r *Ring) Leases() []Lease {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.leases.effective()
}

// WatchLeases is Watch for Leases.
func (r *Ring) WatchLeases() (<-chan struct{}, func()) { return r.leasesChanged.watch() }

// mergeLeases takes leases from another node, if it is of this node's cluster.
func (r *Ring) mergeLeases(cluster string, in []Lease) {
	if len(in) == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if cluster == "" || cluster != r.dir.self.allegiance() {
		return
	}
	var news []Lease
	for _, l := range in {
		if r.dir.removed[l.NodeID] {
			continue
		}
		if out, changed := r.leases.merge(l); changed {
			news = append(news, out)
		}
	}
	if len(news) > 0 {
		r.leaseChangedLocked(news)
	}
}

// leaseChangedLocked passes news on. The queue's lock nests inside r.mu.
func (r *Ring) leaseChangedLocked(news []Lease) {
	if cluster := r.dir.self.allegiance(); r.queue != nil && cluster != "" {
		for _, l := range news {
			if b, err := encodeLease(cluster, l); err == nil {
				r.queue.QueueBroadcast(&leaseBroadcast{node: l.NodeID, msg: b})
			}
		}
	}
	r.leasesChanged.notify()
	poke(r.dirty)
}

// setLife gives or takes what exists only while this node is in the ring.
func (r *Ring) setLife(q *memberlist.TransmitLimitedQueue, join func(netip.AddrPort) error, score func() int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.queue, r.join, r.score = q, join, score
	r.seekWake.notify()
	r.membersChanged.notify() // the beacon waits for it
	r.tellOwnLeaseLocked()
}

// tellOwnLeaseLocked spreads this node's own lease when somebody new may hear it:
// at the start of a life and on entering a cluster. Others' leases get around by
// push-pull.
func (r *Ring) tellOwnLeaseLocked() {
	if own, ok := r.leases.leases[r.cfg.NodeID]; ok {
		r.leaseChangedLocked([]Lease{own})
	}
}

// store writes the address book and the leases when they change.
func (r *Ring) store(ctx context.Context) error {
	failing := false
	for {
		select {
		case <-r.dirty:
		case <-ctx.Done():
			r.storeNow(&failing)
			return nil
		}
		sleep(ctx, storeDelay)
		if r.storeNow(&failing) {
			continue
		}
		sleep(ctx, storeRetry)
		poke(r.dirty)
	}
}

func (r *Ring) storeNow(failing *bool) bool {
	book, leases := bookFile{Format: fileVersion}, leaseFile{Format: fileVersion}
	r.mu.Lock()
	for _, m := range r.dir.list() {
		if !m.Self && m.Addr.IsValid() {
			book.Members = append(book.Members, cardOf(m))
		}
	}
	held := r.leases.all()
	r.mu.Unlock()
	for _, l := range held {
		leases.Leases = append(leases.Leases, l.wire())
	}
	err := r.shelf.write(bookName, book)
	if lerr := r.shelf.write(leasesName, leases); err == nil {
		err = lerr
	}
	if err != nil && !*failing {
		r.log.Error("the address book cannot be stored; a restart would not know what changed since. It is tried again", "error", err)
	}
	*failing = err != nil
	return err == nil
}
