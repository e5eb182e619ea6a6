package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"kontiki/apiserver"
	"kontiki/apiserver/census"
	"kontiki/controllers"
	"kontiki/controllers/scheduler"
	"kontiki/gossip"
	"kontiki/internal/port"
	"kontiki/overlay"
	"kontiki/pki"
	"kontiki/raftstore"
)

// node is a node while it runs. Fields are written once, by boot, before the
// part that reads them starts.
type node struct {
	cfg     Config
	log     *slog.Logger
	id      pki.Identity
	port    *port.Port
	ring    *gossip.Ring
	charter charter
	store   *raftstore.Store
	api     *apiserver.Server
	served  chan struct{} // closed when api is there to be read by others than boot

	dataKeys *dataKeys // of Secrets

	network atomic.Pointer[overlay.Network] // nil: not yet
	own     atomic.Pointer[ownAgent]        // likewise

	phase  atomic.Value // string: what the node is doing, for people
	stored atomic.Bool  // charter and store are there to be read by others than boot

	secretMu sync.Mutex                   // held by who changes secret
	secret   atomic.Pointer[pki.Rotation] // see secret.go

	peers    peers
	clock    *pki.Clock
	problems *problems
	health   *controllers.Health
	schedule *scheduler.Metrics
	refills  chan error // why the replica was refilled, until an event says so
	yielded  time.Time  // when this node last gave leadership away over its controllers; of lead alone
}

// Run runs a node until ctx ends, and then stops it in order: leadership is
// handed over, pods run on.
func Run(ctx context.Context, cfg Config) error {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return err
	}
	unlock, err := lockDir(cfg.DataDir)
	if err != nil {
		return err
	}
	defer unlock()
	if err := cfg.resolve(); err != nil {
		return err
	}
	n := &node{cfg: cfg, log: cfg.Logger, problems: newProblems(cfg.Logger), refills: make(chan error, 1), served: make(chan struct{})}
	n.schedule = scheduler.NewMetrics()
	n.health = &controllers.Health{Report: n.problems.report, Solved: n.problems.solved}
	n.phase.Store("starting")
	routeKlog(cfg.Logger)
	localLists()
	if n.clock, err = pki.OpenClock(cfg.DataDir, cfg.Clock); err != nil {
		return err
	}
	if _, removed, err := loadFarewell(cfg.DataDir); err != nil {
		return err
	} else if !removed {
		if err := n.serve(ctx); !errors.Is(err, errRemoved) {
			return err
		}
	}
	farewell, _, err := loadFarewell(cfg.DataDir)
	if err != nil {
		return err
	}
	if n.id, err = pki.LoadIdentity(cfg.DataDir); err != nil {
		return err
	}
	return n.standAside(ctx, farewell)
}

// serve is a node's work until ctx ends or something fails.
func (n *node) serve(ctx context.Context) error {
	ctx, life := newLifecycle(ctx, n.log)
	defer life.stop()
	defer n.stored.Store(false)
	if err := n.boot(ctx, life); err != nil {
		if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
			return cause // why boot was cut short
		}
		if ctx.Err() != nil {
			return nil // asked to stop before it was up
		}
		return err
	}
	<-ctx.Done()
	n.phase.Store("stopping")
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// boot brings the node up, one room after the other. It blocks while the node
// waits for others to found a cluster with.
func (n *node) boot(ctx context.Context, life *lifecycle) (err error) {
	if n.id, err = pki.LoadIdentity(n.cfg.DataDir); err != nil {
		return err
	}
	secret, err := n.loadSecret()
	if err != nil {
		return err
	}
	n.secret.Store(&secret)
	n.port, err = port.Listen(port.Config{
		Address:  hostPort(netip.IPv4Unspecified(), n.cfg.Port),
		Identity: n.id,
		Secrets:  secret.Secrets(),
		Now:      n.now,
		Logger:   n.log.With("room", "port"),
		Follow:   n.clock.Follow,
		Refused:  n.secretRefused,
	})
	if err != nil {
		return err
	}
	life.start("cluster port", n.port.Run)
	if err := n.startRing(life); err != nil {
		return err
	}
	life.start("removal", n.hearRemoval)
	if err := n.startAdmin(life); err != nil {
		return err
	}
	if n.charter, err = n.becomeMember(ctx); err != nil {
		return err
	}
	n.clock.Raise(n.charter.trust.Founded())
	if err := n.startMembership(life); err != nil {
		return err
	}
	n.phase.Store("opening the store")
	if err := n.openStore(life); err != nil {
		return err
	}
	life.start("removals", n.followRemovals)
	life.start("join secret", n.followSecret)
	life.start("answers about the join secret", n.serveSecret)
	life.start("questions about the join secret", n.askForSecret)
	life.start("joining nodes", n.serveJoin)
	life.start("data keys", n.forgetFoundingKey)
	n.phase.Store("starting the API")
	if err := n.startAPI(ctx, life); err != nil {
		return err
	}
	if err := n.claimName(ctx); err != nil {
		return err
	}
	if err := n.startWork(ctx, life); err != nil {
		return err
	}
	if err := n.showMetrics(n.health, life); err != nil {
		return err
	}
	if err := n.showMetrics(n.schedule, life); err != nil {
		return err
	}
	life.start("leadership", n.lead)
	life.start("memory", tendMemory)
	life.start("collections", paceCollections)
	// First of all when the node stops, while it can still pass requests on.
	life.onStop("leadership handover", func() error { n.store.HandOver(); return nil })
	n.phase.Store("running")
	n.log.Info("node is up", "node", n.cfg.Name, "id", n.id.ID, "cluster", n.charter.ClusterID)
	return nil
}

// now is the time that certificates are made and checked with.
func (n *node) now() time.Time { return n.clock.Now() }

func (n *node) startRing(life *lifecycle) error {
	known, err := loadCharter(n.cfg.DataDir)
	if err != nil && !errors.Is(err, errBlank) {
		return err
	}
	if known.Epoch != "" { // whoever founded this cluster has nothing to say about this epoch
		if err := gossip.ResetFormation(ringDir(n.cfg.DataDir)); err != nil {
			return err
		}
	}
	if err := n.showLibraries(life); err != nil {
		return err
	}
	n.ring, err = gossip.New(gossip.Config{
		NodeID:      n.id.ID,
		Name:        n.cfg.Name,
		Keys:        ringKeys(n.rotation()),
		UDP:         netip.AddrPortFrom(netip.IPv4Unspecified(), n.cfg.RingPort),
		Advertise:   n.advertise,
		ClusterPort: n.cfg.Port,
		Ring:        n.proven(port.Ring),
		BeaconPort:  n.cfg.RingPort,
		Join:        n.cfg.Join,
		Dir:         ringDir(n.cfg.DataDir),
		Meta:        gossip.Meta{ClusterID: known.ClusterID, Epoch: string(known.Epoch), Zone: n.cfg.Zone, Version: n.cfg.Version},
		Refused:     n.ringRefused,
		Logger:      n.log.With("room", "gossip"),
	})
	if err != nil {
		return err
	}
	life.start("gossip", n.ring.Run)
	return n.showMetrics(n.ring, life)
}

// becomeMember returns the charter of the cluster that this node belongs to:
// the one on disk, or that of a cluster which it founds or joins now.
func (n *node) becomeMember(ctx context.Context) (charter, error) {
	known, err := loadCharter(n.cfg.DataDir)
	member := err == nil
	if err != nil && !errors.Is(err, errBlank) {
		return charter{}, err
	}
	if member {
		// Its networks may be others by now: that must not keep it down.
		err = n.cfg.heldTo(known.Settings)
	} else {
		err = n.fits(n.cfg.Settings)
	}
	if err != nil {
		return charter{}, err
	}
	n.phase.Store(fmt.Sprintf("waiting for %d blank nodes to found a cluster, or for one to join", n.cfg.Expect))
	// A member takes part, too: other founders may wait for what only it knows.
	outcome, err := n.ring.Form(ctx, gossip.FormConfig{
		Expect:   n.cfg.Expect,
		Settings: n.cfg.Settings.encode(),
		Founder:  founder{n.cfg.DataDir, n.now},
		Streams:  n.proven(port.Form),
	})
	if err != nil {
		return charter{}, fmt.Errorf("found a cluster: %w", err)
	}
	switch {
	case member:
		return known, nil
	case outcome.Kind == gossip.Founded:
		return loadCharter(n.cfg.DataDir)
	}
	n.phase.Store("joining cluster " + outcome.ClusterID)
	return n.join(ctx, outcome.ClusterID)
}

func (n *node) openStore(life *lifecycle) (err error) {
	if err := n.charter.checkReplica(n.cfg.DataDir); err != nil {
		return err
	}
	cfg := raftstore.Config{
		NodeID:    n.id.ID,
		ClusterID: n.charter.ClusterID,
		Epoch:     n.charter.Epoch,
		Dir:       raftDir(n.cfg.DataDir, n.charter.Epoch),
		Log:       raftstore.LogStore(n.cfg.LogStore),
		Raft:      n.member(port.Raft),
		Calls:     n.member(port.Call),
		Founders:  n.charter.Founders,
		Nonvoters: n.charter.Nonvoters,
		Now:       n.now,
		Refused:   n.epochRefused,
		Refilled:  n.refilled,
		Logger:    n.log.With("room", "raftstore"),
	}
	if n.cfg.Faults.Store != nil {
		n.cfg.Faults.Store(&cfg)
	}
	if n.store, err = raftstore.Open(cfg); err != nil {
		return err
	}
	life.onStop("store", n.store.Close)
	if err := n.charter.begin(n.cfg.DataDir); err != nil { // a full disk keeps no node from starting; the next start does it
		n.log.Warn("it is not noted that this node has a replica; a start without it would not be refused", "err", err)
	}
	for _, c := range []prometheus.Collector{n.store, census.Objects{View: n.store.View}} {
		if err := n.showMetrics(c, life); err != nil {
			return err
		}
	}
	n.dataKeys = newDataKeys(n.charter.trust, n.store)
	n.stored.Store(true)
	return nil
}

// cluster is the id of the cluster that this node belongs to, empty if none.
func (n *node) cluster() string {
	for _, m := range n.ring.Members() {
		if m.Self {
			return m.ClusterID
		}
	}
	return ""
}
