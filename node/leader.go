package node

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"kontiki/apiserver"
	"kontiki/controllers"
	"kontiki/gossip"
	"kontiki/node/internal/seeded"
	"kontiki/overlay"
	"kontiki/raftstore"
)

// Where the cluster's own records stand in the store.
const (
	trustKey    = "/kontiki/trust"
	settingsKey = "/kontiki/settings"
)

// reignPause keeps a leader whose work ended at once from spinning.
const reignPause = time.Second

// lead runs what only the Raft leader runs, whenever this node leads.
func (n *node) lead(ctx context.Context) error {
	changed, stop := n.store.WatchLeadership()
	defer stop()
	for {
		if leadership := n.store.Leadership(); leadership.Self {
			n.reign(ctx, leadership.Term, changed)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-time.After(reignPause):
		}
	}
}

// reign works as the leader of a term until the term has passed or ctx ends.
func (n *node) reign(ctx context.Context, term uint64, changed <-chan raftstore.Leadership) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- n.govern(ctx, term) }()
	for {
		select {
		case err := <-done:
			if err != nil && ctx.Err() == nil {
				n.log.Error("the leader's work ended; it will be started again", "term", term, "err", err)
				n.yield(err)
			}
			return
		case l := <-changed:
			if !l.Self || l.Term != term {
				if seeded.UnfencedControllers {
					time.Sleep(seeded.Overtime)
				}
				cancel()
				if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
					n.log.Debug("the leader's work stopped with its term", "term", term, "err", err)
				}
				return
			}
		}
	}
}

// yieldPause is how long a node keeps leadership at least after it has given it away
// over its controllers: where they fail on every node, it must not go in circles.
const yieldPause = 10 * time.Minute

// yield hands leadership over when a controller does not stay up here.
func (n *node) yield(err error) {
	if !errors.Is(err, controllers.ErrHopeless) || !n.yielded.IsZero() && time.Since(n.yielded) < yieldPause {
		return
	}
	n.yielded = time.Now()
	n.log.Warn("a controller does not stay up on this node: handing leadership over", "err", err)
	n.store.HandOver()
}

// govern does the leader's work. All that it writes carries the term, and is
// refused once another leader's term has begun.
func (n *node) govern(ctx context.Context, term uint64) error {
	elected := time.Now()
	fixed, err := n.store.Barrier(ctx)
	if err != nil {
		return fmt.Errorf("wait for the entries of earlier terms: %w", err)
	}
	if fixed != term {
		return nil // the watch tells of the new one
	}
	n.log.Info("leading", "term", term)
	defer n.log.Info("leading no more", "term", term)
	if err := n.seed(ctx, term); err != nil {
		return err
	}
	if err := n.finishRemovals(ctx); err != nil {
		return err
	}
	if err := n.stampEpoch(ctx, memberIDs(n.store.Members()), term); err != nil {
		return err
	}
	system, err := n.api.Clientset(apiserver.Self(), apiserver.WithTerm(term))
	if err != nil {
		return err
	}
	config, err := n.connectControllers(term)
	if err != nil {
		return err
	}
	front, err := n.charter.trust.Authority.FrontProxy()
	if err != nil {
		return err
	}
	changed, stop := n.ring.Watch()
	defer stop()
	work, ctx := errgroup.WithContext(ctx) // any part that ends takes the others with it
	work.Go(func() error {
		events, stop := recorder(ctx, system, apiserver.CIDREventSource)
		defer stop()
		objects := &apiserver.System{
			Client:               system,
			ServiceCIDR:          n.charter.Settings.ServiceCIDR,
			SecondaryServiceCIDR: n.charter.Settings.SecondaryServiceCIDR,
			Endpoints:            n.apiServers,
			ClientCA:             n.charter.trust.Authority.CertPEM(),
			FrontProxyCA:         front.CertPEM(),
			Changed:              changed,
			Events:               events,
			Logger:               n.log.With("room", "apiserver"),
		}
		return objects.Run(ctx)
	})
	work.Go(func() error {
		config.RootCA = n.charter.trust.Authority.CertPEM()
		config.Signer = signer{n}
		config.ClusterCIDR, config.NodePrefixLen = n.charter.Settings.ClusterCIDR, n.charter.Settings.NodePrefixLen
		config.LoadBalancer = n.cfg.LoadBalancer == LoadBalancerNodes
		config.ReservedPorts = []int32{int32(n.cfg.Port), int32(n.cfg.RingPort), overlay.TunnelPort}
		config.Ring = ringHealth{n.ring}
		config.Since, config.Health, config.SchedulerMetrics = elected, n.health, n.schedule
		config.Logger = n.log.With("room", "controllers")
		return controllers.Run(ctx, config)
	})
	work.Go(func() error { return n.keepVoters(ctx, term) })
	work.Go(func() error { return n.tellMembers(ctx, config.Client) })
	work.Go(func() error { return n.driveSecret(ctx, term) })
	work.Go(func() error { return n.driveDataKeys(ctx, term) })
	return work.Wait()
}

// connectControllers makes the clients of the controllers of a term.
func (n *node) connectControllers(term uint64) (config controllers.Config, err error) {
	if seeded.UnfencedControllers {
		term = 0
	}
	fenced := apiserver.WithTerm(term)
	if config, err = controllers.Connect(n.api.Client(controllerUser(), fenced)); err != nil {
		return config, err
	}
	if config.Client, err = n.api.Clientset(controllerUser(), fenced); err != nil {
		return config, err
	}
	if config.Metadata, err = n.api.Metadata(controllerUser(), fenced); err != nil {
		return config, err
	}
	config.SchedulerClient, err = n.api.Clientset(schedulerUser(), fenced)
	return config, err
}

// signer makes certificates that users ask for with the cluster's authority.
type signer struct{ *node }

func (s signer) Sign(request *x509.CertificateRequest, usage x509.KeyUsage, extended []x509.ExtKeyUsage, life time.Duration) ([]byte, error) {
	return s.charter.trust.Authority.Requested(request, usage, extended, life, s.now())
}

// apiServers are the addresses at which the cluster's nodes serve the API, as far
// as the ring holds them for alive.
func (n *node) apiServers() []netip.AddrPort {
	var addrs []netip.AddrPort
	for _, m := range n.ring.Members() {
		if m.ClusterID == n.charter.ClusterID && m.State == gossip.StateAlive && m.Addr.IsValid() {
			addrs = append(addrs, m.ClusterAddr())
		}
	}
	return addrs
}

// seed writes the cluster's own records, once in its life.
func (n *node) seed(ctx context.Context, term uint64) error {
	trust, err := n.charter.trust.Sealed()
	if err != nil {
		return err
	}
	_, err = n.store.Apply(ctx, raftstore.Txn{
		Compares: []raftstore.Compare{{Key: trustKey}, {Key: settingsKey}},
		Ops: []raftstore.Op{
			{Kind: raftstore.OpPut, Key: trustKey, Value: trust},
			{Kind: raftstore.OpPut, Key: settingsKey, Value: n.charter.Settings.encode()},
		},
		Term: term,
	})
	if err != nil {
		return fmt.Errorf("write the cluster's own records: %w", err)
	}
	return n.seedDataKeys(ctx, term)
}
