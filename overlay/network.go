package overlay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netns"

	"kontiki/overlay/datapath"
	"kontiki/overlay/dns"
	"kontiki/overlay/ipam"
	"kontiki/overlay/nft"
	"kontiki/overlay/service"
)

// Network is the pod network of one node.
type Network struct {
	cfg    Config
	log    *slog.Logger
	book   *ipam.Book
	kernel *datapath.Kernel
	// remover removes pods' links beside all else: the kernel takes long to, and
	// nobody should wait for that.
	remover *datapath.Kernel
	rules   *nft.Programmer
	objects *objects
	watcher *service.Watcher
	forget  *forgetter
	health  *service.Health
	dns     *dns.Server // nil: the cluster has no DNS address
	// upstreams are the name servers that other names are asked of.
	upstreams func() []netip.AddrPort
	figures   figures

	dnsConfig atomic.Pointer[dnsConfig]
	file      string // path of the grant
	kick      chan struct{}

	stopDead func()

	mu        sync.Mutex // serialises changes of the kernel's network configuration; protects the fields below
	grant     grant      // as it is on disk
	published Lease
	mtu       int      // of pods; 0: not known yet
	said      []string // complaints already in the log
	changes   []string // what the last comparison had to change
	compared  bool     // at least once since the start
	// detaching are pods whose link is being removed; closed when that has ended.
	detaching map[string]chan struct{}
}

// New reads what is on disk. Nothing is changed in the kernel before Run or Attach.
func New(cfg Config) (*Network, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("making the overlay's folder: %w", err)
	}
	n := &Network{cfg: cfg, log: cfg.Logger, file: filepath.Join(cfg.DataDir, "grant.json"), kick: make(chan struct{}, 1), detaching: map[string]chan struct{}{}, figures: newFigures()}
	var err error
	if n.grant, err = readGrant(n.file, cfg.NodeID); err != nil {
		return nil, err
	}
	if n.book, err = ipam.Open(filepath.Join(cfg.DataDir, "addresses.json"), time.Now); err != nil {
		return nil, err
	}
	n.book.SetSubnets(n.grant.Subnets)
	if n.grant.UnderlayMTU > 0 {
		n.mtu = datapath.PodMTU(cfg.Backend, n.grant.UnderlayMTU)
	}
	if n.kernel, err = datapath.Open(*cfg.NetNS); err != nil {
		return nil, err
	}
	if n.remover, err = datapath.Open(*cfg.NetNS); err != nil {
		n.kernel.Close()
		return nil, err
	}
	n.rules = nft.New(max(0, int(*cfg.NetNS)), n.log)
	n.forget = newForgetter(n.kernel, n.log)
	n.health = service.NewHealth(n.listenTCP, n.log)
	n.dnsConfig.Store(&dnsConfig{})
	n.objects = newObjects(cfg.Client, cfg.NodeName)
	conf := dns.NewResolvConf(cfg.ResolvConf, cfg.ClusterDNS)
	n.upstreams = n.upstreamsFrom(conf)
	if cfg.ClusterDNS.IsValid() {
		n.dns = n.newDNS(conf)
	}
	if err := n.follow(); err != nil {
		n.kernel.Close()
		n.remover.Close()
		return nil, err
	}
	return n, nil
}

// Run keeps the pod network as it should be until ctx ends. What it made stays
// in the kernel, so that pods keep talking while the node restarts; Teardown
// removes it. Run may be called once.
func (n *Network) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	leases, stopLeases := n.cfg.Leases.WatchLeases()
	defer stopLeases()
	var wg sync.WaitGroup
	n.objects.start(ctx)
	n.compare() // first the table, then what is in it
	wg.Go(func() { n.forget.run(ctx) })
	wg.Go(func() { n.watcher.Run(ctx) })
	wg.Go(func() { n.health.Run(ctx) })
	if n.dns != nil {
		wg.Go(func() { n.dns.Run(ctx) })
	}
	n.loop(ctx, leases)
	cancel()
	wg.Wait()
	n.objects.wait()
	return nil
}

// settle is how long notices of changes are gathered before comparing: many
// come with every pod that is attached.
const settle = 100 * time.Millisecond

// rulesEvery is how often nftables is asked for its generation: its notices would
// bring all our own elements back, too. It is one question, and writes nothing.
const rulesEvery = 2 * time.Second

// loop compares and repairs after every notice, and now and then.
func (n *Network) loop(ctx context.Context, leases <-chan struct{}) {
	tick := time.NewTicker(n.cfg.CheckEvery)
	defer tick.Stop()
	rules := time.NewTicker(min(rulesEvery, n.cfg.CheckEvery))
	defer rules.Stop()
	var notices <-chan struct{}
	var settled <-chan time.Time
	for {
		if notices == nil {
			var err error
			if notices, err = datapath.Watch(*n.cfg.NetNS, ctx.Done(), n.log); err != nil {
				n.log.Warn("network changes made by others will be noticed late", "error", err)
			} else if settled == nil {
				settled = time.After(settle) // what changed before the subscription
			}
		}
		select {
		case <-ctx.Done():
			if notices != nil {
				for range notices { // ends once the subscriptions have
				}
			}
			return
		case _, ok := <-notices:
			if !ok {
				notices = nil
			}
			if settled == nil {
				settled = time.After(settle)
			}
			continue
		case <-rules.C:
			n.checkServices()
			continue
		case <-settled:
			settled = nil
		case <-tick.C:
		case <-n.kick:
		case <-leases:
		}
		n.compare()
	}
}

func (n *Network) compare() {
	if err := n.Reconcile(); err != nil {
		n.log.Error("the pod network is not as it should be", "error", err)
	}
	n.checkServices()
}

func (n *Network) checkServices() {
	if err := n.watcher.Check(); err != nil {
		n.log.Error("Services are not as they should be", "error", err)
	}
}

// wake asks the loop for another comparison.
func (n *Network) wake() {
	select {
	case n.kick <- struct{}{}:
	default:
	}
}

// Reconcile compares the kernel with what should be, once, and changes what
// differs.
func (n *Network) Reconcile() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.reconcileLocked()
}

func (n *Network) reconcileLocked() error {
	under, err := n.kernel.FindUnderlay(n.cfg.Underlay())
	if err != nil {
		return err
	}
	failed := n.takeGrantLocked()
	refused, err := n.takeRangesLocked()
	failed = errors.Join(failed, err)
	if under.Index != 0 {
		now := n.grant
		now.UnderlayMTU = under.MTU
		failed = errors.Join(failed, n.rememberLocked(now))
		n.mtu = datapath.PodMTU(n.cfg.Backend, under.MTU)
	}
	failed = errors.Join(failed, n.publishLocked(under))
	wanted, complaints := datapath.Plan(n.inputLocked(under))
	n.complainLocked(append(complaints, refused...))
	failed = errors.Join(failed, n.rules.SetBase(n.baseLocked()))
	changes, err := n.kernel.Apply(wanted)
	n.changes = changes
	n.figures.compared++
	n.figures.changed += uint64(len(changes))
	n.figures.routes = len(wanted.Routes)
	for _, c := range changes {
		n.log.Debug("pod network", "change", c)
	}
	if !n.compared {
		// Host ports of pods that an earlier process attached.
		for _, rec := range n.book.Records() {
			failed = errors.Join(failed, n.setHostPorts(rec))
		}
		n.compared = true
	}
	err = errors.Join(failed, err, n.restoreLinksLocked())
	if err != nil {
		n.figures.failures++
	}
	return err
}

// publishLocked tells other nodes how to reach this node's pods.
func (n *Network) publishLocked(under datapath.Underlay) error {
	if len(n.grant.Subnets) == 0 || under.Index == 0 {
		return nil
	}
	own := Lease{NodeID: n.cfg.NodeID, Subnets: n.grant.Subnets, GrantRevision: n.grant.Revision}
	own.Endpoint.Addr, own.Endpoint.MAC, own.Endpoint.MTU = under.Addr, datapath.TunnelMAC(n.cfg.NodeID), under.MTU
	if reflect.DeepEqual(own, n.published) {
		return nil
	}
	if err := n.cfg.Leases.SetLease(own); err != nil {
		return fmt.Errorf("publishing this node's lease: %w", err)
	}
	n.published = own
	return nil
}

func (n *Network) inputLocked(under datapath.Underlay) datapath.Input {
	in := datapath.Input{
		NodeID: n.cfg.NodeID, Subnets: n.grant.Subnets, GrantRevision: n.grant.Revision, Backend: n.cfg.Backend, Underlay: under,
		ClusterCIDRs: n.cfg.ClusterCIDRs, ServiceCIDRs: n.serviceRangesLocked(), ClusterDNS: n.cfg.ClusterDNS,
	}
	for _, l := range n.cfg.Leases.Leases() {
		in.Peers = append(in.Peers, datapath.Peer{NodeID: l.NodeID, Subnets: l.Subnets, GrantRevision: l.GrantRevision, Addr: l.Endpoint.Addr, MAC: l.Endpoint.MAC})
	}
	for _, r := range n.book.Records() {
		in.Pods = append(in.Pods, r.UID)
	}
	return in
}

// complainLocked logs what is new among complaints.
func (n *Network) complainLocked(complaints []string) {
	if reflect.DeepEqual(complaints, n.said) {
		return
	}
	for _, c := range complaints {
		n.log.Error(c)
	}
	n.said = complaints
}

// rememberLocked makes g this node's grant, once it is on disk.
func (n *Network) rememberLocked(g grant) error {
	if g.equal(n.grant) {
		return nil
	}
	if err := g.write(n.file); err != nil {
		return err
	}
	n.grant = g
	return nil
}

// takeGrantLocked takes over the subnets granted to this node, if they are others
// than those it knows.
func (n *Network) takeGrantLocked() error {
	subnets, revision := n.objects.grantSeen(n.cfg.NodeName)
	now := n.grant.with(subnets, revision)
	if now.equal(n.grant) {
		return nil
	}
	if err := n.rememberLocked(now); err != nil {
		return err
	}
	n.log.Info("this node's pods get addresses from a new subnet", "subnets", now.Subnets, "revision", revision)
	n.book.SetSubnets(now.Subnets)
	return nil
}

// Teardown removes everything that Networks ever made in the kernel and in the
// folder dataDir. None may run any more, and the pods should be gone. ip_forward
// and send_redirects stay as they are: others may count on them by now.
func Teardown(dataDir string, ns netns.NsHandle, logger *slog.Logger) error {
	kernel, err := datapath.Open(ns)
	if err != nil {
		return err
	}
	defer kernel.Close()
	rules := nft.New(max(0, int(ns)), logger)
	defer rules.Close()
	if err := errors.Join(kernel.Remove(), rules.Teardown()); err != nil {
		return err
	}
	if err := os.RemoveAll(dataDir); err != nil {
		return fmt.Errorf("removing the overlay's folder: %w", err)
	}
	return nil
}

// Close ends the conversation with the kernel and the watches; after Run has returned.
func (n *Network) Close() {
	n.stopDead()
	n.rules.Close()
	n.remover.Close()
	n.kernel.Close()
}

// baseLocked is what the nftables table depends on besides Services.
func (n *Network) baseLocked() nft.Base {
	b := nft.Base{
		Subnets: n.grant.Subnets, ClusterCIDRs: n.cfg.ClusterCIDRs, ServiceCIDRs: n.serviceRangesLocked(),
		Bridge: datapath.BridgeName, Tunnel: datapath.TunnelName,
	}
	if n.cfg.Backend == datapath.VXLAN {
		// Without a tunnel packets leave by the nodes' own devices, which are not ours.
		b.Loopback, b.TunnelPort = true, datapath.Port
	}
	return b
}
