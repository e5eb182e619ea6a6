package gossip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"golang.org/x/sync/errgroup"
)

// ErrUnknownNode is returned for a node id that this node has never heard of.
var ErrUnknownNode = errors.New("gossip: the node is not known")

// Ring is a node's place among the others.
type Ring struct {
	cfg     Config
	log     *slog.Logger
	wire    *wire
	figures figures

	mu     sync.Mutex // protects what follows
	dir    *directory
	leases *leaseTable
	life   uint64
	queue  *memberlist.TransmitLimitedQueue // nil outside a life
	join   func(netip.AddrPort) error       // nil outside a life
	score  func() int                       // nil outside a life; how unwell this node is
	keys   Keys
	// keyring is that of the present or last life; nil before the first.
	keyring *memberlist.Keyring

	// size is how many members are in touch, this one included. It is apart from
	// mu because the broadcast queue asks for it with its own lock held.
	size atomic.Int32

	membersChanged notifier
	leasesChanged  notifier
	seekWake       notifier

	entered  chan struct{} // this node entered a cluster, whose leases it lacks
	rebirth  chan uint64   // a life that this node must exceed
	announce chan struct{} // the metadata changed
	dirty    chan struct{} // something that belongs on disk changed
	heard    chan netip.AddrPort
	services chan func(context.Context) error // formations that Run carries
	ended    chan struct{}
	shelf    *shelf
}

// New opens the ring's socket and reads what is on disk: Members, Resolve and
// Leases answer from then on. Run must be called, and releases everything.
func New(cfg Config) (*Ring, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	cfg.Tuning = cfg.Tuning.withDefaults()
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	r := &Ring{
		cfg: cfg, log: cfg.Logger,
		leases: newLeaseTable(cfg.NodeID), keys: cfg.Keys,
		entered: make(chan struct{}, 1), rebirth: make(chan uint64, 1), announce: make(chan struct{}, 1), dirty: make(chan struct{}, 1),
		heard: make(chan netip.AddrPort, 16), services: make(chan func(context.Context) error), ended: make(chan struct{}),
		shelf: &shelf{dir: cfg.Dir, written: map[string]string{}},
	}
	r.dir = newDirectory(entry{Member: Member{ID: cfg.NodeID, Name: cfg.Name, Addr: cfg.Advertise(),
		ClusterPort: cfg.ClusterPort, ClusterID: cfg.Meta.ClusterID, Epoch: cfg.Meta.Epoch, Zone: cfg.Meta.Zone, Version: cfg.Meta.Version,
		KeyStep: cfg.Keys.Step, State: StateAlive, Since: time.Now(), Self: true}})
	members, problems := r.shelf.readBook()
	for _, m := range members {
		r.dir.learn(m, time.Now())
	}
	leases, more := r.shelf.readLeases()
	for _, l := range leases {
		r.leases.merge(l)
	}
	for _, p := range append(problems, more...) {
		r.log.Warn("the ring goes on without something that it had stored, and will hear it from other nodes", "error", p)
	}
	r.figures.probes = probeMetric.New()
	var err error
	if r.wire, err = openWire(&cfg, &r.figures); err != nil {
		return nil, err
	}
	if r.cfg.Beacon == nil && cfg.BeaconPort != 0 {
		if r.cfg.Beacon, err = ListenBeacon(cfg.BeaconPort); err != nil {
			r.log.Warn("this node cannot be found by beacon on the local network, only by --join", "err", err)
			r.cfg.Beacon = nil // not an interface around a nil
		}
	}
	return r, nil
}

// Run takes part in the ring until ctx ends, then leaves it in an orderly way. It
// may be called once.
func (r *Ring) Run(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { r.wire.readPackets(); return nil })
	g.Go(func() error { r.wire.acceptStreams(); return nil })
	g.Go(func() error { return r.live(gctx) })
	g.Go(func() error { return r.store(gctx) })
	g.Go(func() error { return r.seek(gctx) })
	g.Go(func() error { return r.expire(gctx) })
	if r.cfg.Beacon != nil {
		g.Go(func() error { r.listenBeacon(); return nil })
		g.Go(func() error { return r.sendBeacon(gctx) })
	}
	g.Go(func() error {
		for {
			select {
			case f := <-r.services:
				g.Go(func() error { return f(gctx) })
			case <-gctx.Done():
				return nil
			}
		}
	})
	err := g.Wait()
	close(r.ended)
	return err
}

// live enters the ring, again whenever this node's address changes, and closes
// the wire at the end.
func (r *Ring) live(ctx context.Context) error {
	defer func() {
		r.wire.close()
		if r.cfg.Beacon != nil {
			r.cfg.Beacon.Close()
		}
	}()
	floor := r.cfg.Incarnation
	for ctx.Err() == nil {
		addr := r.cfg.Advertise()
		if !addr.IsValid() || addr.IsUnspecified() {
			if !sleep(ctx, time.Second) {
				return nil
			}
			continue
		}
		exceed, err := r.liveOnce(ctx, addr.Unmap(), floor)
		if err != nil {
			return err
		}
		floor = max(floor, exceed)
	}
	return nil
}

// liveOnce is one life: from entering the ring under an address to leaving it, or
// to a reason to enter it anew. exceed is what the next life must be at least.
func (r *Ring) liveOnce(ctx context.Context, addr netip.Addr, floor uint64) (exceed uint64, err error) {
	life, err := nextLife(r.cfg.Dir, floor, time.Now())
	if err != nil {
		// A full disk must not keep a node out of the ring. Without a count on disk
		// the time makes the life unique; should it not, others will say so.
		life = max(life, uint64(max(time.Now().Unix(), 0)))
		r.log.Error("the count of this node's lives cannot be stored; it goes on with the time instead", "error", err)
	}
	d := &delegate{r: r, life: life}
	t := newTransport(r.wire, addr, r.clusterPort)
	r.begin(life, addr)
	d.queue = newQueue(func() int { return int(r.size.Load()) })
	keys, err := r.takeKeyring()
	if err != nil {
		return 0, fmt.Errorf("gossip: %w", err)
	}
	ml, err := memberlist.Create(r.memberlistConfig(memberName(r.cfg.NodeID, life), t, d, keys))
	if err != nil {
		return 0, fmt.Errorf("gossip: enter the ring: %w", err)
	}
	r.wire.set(t)
	r.setLife(d.queue, func(a netip.AddrPort) error {
		_, err := ml.Join([]string{a.String()})
		return err
	}, ml.GetHealthScore)
	r.figures.lives.Add(1)
	defer func() {
		r.setLife(nil, nil, nil)
		r.wire.set(nil)
		ml.Shutdown() // reports nothing that could be acted upon
	}()
	return r.during(ctx, ml, addr), nil
}

// during serves a life until it ends.
func (r *Ring) during(ctx context.Context, ml *memberlist.Memberlist, addr netip.Addr) uint64 {
	tick := time.NewTicker(addressInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			r.leave(ml)
			return 0
		case <-r.announce:
			if ml.UpdateNode(announceTicks*r.cfg.Tuning.GossipInterval) != nil {
				poke(r.announce) // see announceTicks
			}
		case exceed := <-r.rebirth:
			if !sleep(ctx, rebirthPause) { // two processes with one id must not race each other
				continue
			}
			return exceed + 1
		case <-tick.C:
			if now := r.cfg.Advertise().Unmap(); now.IsValid() && !now.IsUnspecified() && now != addr {
				r.log.Info("this node's address changed; it enters the ring anew", "from", addr, "to", now)
				return 0
			}
		}
	}
}

func (r *Ring) leave(ml *memberlist.Memberlist) {
	r.mu.Lock()
	r.dir.self.leaving = true
	alone := r.dir.othersAlive() == 0
	r.mu.Unlock()
	if alone {
		return
	}
	ml.UpdateNode(leaveTimeout) // so that others know the silence for intended
	ml.Leave(leaveTimeout)
}

func (r *Ring) begin(life uint64, addr netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.life = life
	r.dir.self.Incarnation, r.dir.self.Addr = life, addr
	r.dir.reborn(time.Now())
	r.changedLocked()
}

// askRebirth asks for a life beyond one that others know of this node: its count
// was lost, or the data directory runs twice.
func (r *Ring) askRebirth(life uint64, addr netip.Addr) {
	select {
	case r.rebirth <- life:
		r.log.Warn("others know a later life of this node than this one; it enters the ring anew. "+
			"If that repeats, a copy of this data directory runs elsewhere: stop one of the two",
			"id", r.cfg.NodeID, "address", addr)
	default:
	}
}

// changedLocked wakes whoever looks at the members.
func (r *Ring) changedLocked() {
	r.size.Store(int32(r.dir.othersAlive() + 1))
	r.membersChanged.notify()
	r.seekWake.notify()
	poke(r.dirty)
}

func (r *Ring) metadata() metadata {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &r.dir.self
	return metadata{name: s.Name, zone: s.Zone, version: s.Version, clusterID: s.ClusterID, epoch: s.Epoch,
		clusterPort: s.ClusterPort, leaving: s.leaving, form: s.form, keyStep: s.KeyStep}
}

func (r *Ring) clusterPort(name string) (uint16, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, ok := r.dir.ports[name]
	return p, ok
}

func (r *Ring) self() Member {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dir.self.Member
}

// Members returns all nodes that are or were in the ring with this one, itself
// included, by id. Nodes of other clusters are not among them, except while this
// node belongs to none.
func (r *Ring) Members() []Member {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dir.list()
}

// Watch returns a channel that receives whenever Members may have changed since
// the last receive, and a function that ends the watch. It starts full.
func (r *Ring) Watch() (<-chan struct{}, func()) { return r.membersChanged.watch() }

// Resolve returns the cluster address of a node, also of one that is away.
func (r *Ring) Resolve(nodeID string) (netip.AddrPort, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m, ok := r.dir.find(nodeID)
	if !ok || !m.Addr.IsValid() {
		return netip.AddrPort{}, fmt.Errorf("%w: %s", ErrUnknownNode, nodeID)
	}
	return m.ClusterAddr(), nil
}

// SetSelf changes what this node says about itself. A cluster id, once set, can
// only be set to the same again.
func (r *Ring) SetSelf(m Meta) error {
	if err := m.validate(); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	self := &r.dir.self
	if self.ClusterID != "" && m.ClusterID != self.ClusterID {
		return fmt.Errorf("gossip: this node belongs to cluster %s and cannot enter %q", self.ClusterID, m.ClusterID)
	}
	if self.ClusterID != "" && m.Epoch != self.Epoch {
		return fmt.Errorf("gossip: this node belongs to epoch %q of its cluster and cannot enter %q", self.Epoch, m.Epoch)
	}
	if self.ClusterID == m.ClusterID && self.Zone == m.Zone && self.Version == m.Version {
		return nil
	}
	if self.ClusterID != m.ClusterID {
		r.dir.setCluster(m.ClusterID, m.Epoch)
		self.form = nil
		r.tellOwnLeaseLocked()
		poke(r.entered)
	}
	self.Zone, self.Version = m.Zone, m.Version
	poke(r.announce)
	r.changedLocked()
	return nil
}

// setStance says what this node wants to form; nil for nothing.
func (r *Ring) setStance(f *formStance) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.dir.self.form.equal(f) {
		return
	}
	r.dir.self.form = f
	poke(r.announce)
}

// expire gives up members that were not met, when their time has come.
func (r *Ring) expire(ctx context.Context) error {
	wake, stop := r.Watch()
	defer stop()
	for {
		r.mu.Lock()
		changed, next := r.dir.expire(time.Now(), r.cfg.Tuning.Absent)
		if len(changed) > 0 {
			r.changedLocked()
		}
		r.mu.Unlock()
		for _, m := range changed {
			if m.ClusterID != "" {
				r.log.Warn("node could not be found and is held for dead", "node", m.Name, "id", m.ID, "address", m.Addr)
			}
		}
		if !waitUntil(ctx, next, wake) {
			return nil
		}
	}
}
