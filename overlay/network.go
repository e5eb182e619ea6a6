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
	"slices"
	"sync"
	"time"

	"kontiki/overlay/datapath"
	"kontiki/overlay/ipam"
	"kontiki/overlay/nft"
	"kontiki/overlay/service"
)

// Network is the pod network of one node.
type Network struct {
	cfg     Config
	log     *slog.Logger
	book    *ipam.Book
	kernel  *datapath.Kernel
	rules   *nft.Programmer
	objects *objects
	watcher *service.Watcher
	memory  string // path of the remembered leases
	kick    chan struct{}

	stopDead func()

	mu        sync.Mutex // serialises changes of the kernel's network configuration; protects the fields below
	mem       memory
	published Lease
	mtu       int      // of pods; 0: not known yet
	said      []string // complaints already in the log
	compared  bool     // at least once since the start
}

// New reads what is on disk. Nothing is changed in the kernel before Run or Attach.
func New(cfg Config) (*Network, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("making the overlay's folder: %w", err)
	}
	n := &Network{cfg: cfg, log: cfg.Logger, memory: filepath.Join(cfg.DataDir, "leases.json"), kick: make(chan struct{}, 1)}
	var err error
	if n.mem, err = readMemory(n.memory, cfg.NodeID); err != nil {
		return nil, err
	}
	if n.book, err = ipam.Open(filepath.Join(cfg.DataDir, "addresses.json"), time.Now); err != nil {
		return nil, err
	}
	n.book.SetSubnets(n.mem.Own.Subnets)
	if n.mem.Own.Endpoint.MTU > 0 {
		n.mtu = datapath.PodMTU(n.mem.Own.Endpoint.MTU)
	}
	if n.kernel, err = datapath.Open(*cfg.NetNS); err != nil {
		return nil, err
	}
	n.rules = nft.New(max(0, int(*cfg.NetNS)), n.log)
	n.objects = newObjects(cfg.Client, cfg.NodeName)
	if err := n.follow(); err != nil {
		n.kernel.Close()
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
	wg.Go(func() { n.watcher.Run(ctx) })
	if n.cfg.ClusterDNS.IsValid() {
		server := n.newDNS()
		wg.Go(func() { server.Run(ctx) })
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

// loop compares and repairs after every notice, and now and then.
func (n *Network) loop(ctx context.Context, leases <-chan struct{}) {
	tick := time.NewTicker(n.cfg.CheckEvery)
	defer tick.Stop()
	var notices <-chan struct{}
	var settled <-chan time.Time
	n.compare()
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
	var failed error
	if under.Index != 0 {
		mem := n.mem
		mem.Own.Endpoint = Endpoint{Addr: under.Addr, MAC: datapath.TunnelMAC(n.cfg.NodeID), MTU: under.MTU}
		failed = n.rememberLocked(mem)
		n.mtu = datapath.PodMTU(under.MTU)
	}
	n.publishLocked()
	wanted, complaints := datapath.Plan(n.inputLocked(under))
	n.complainLocked(complaints)
	failed = errors.Join(failed, n.rules.SetBase(n.baseLocked()))
	changes, err := n.kernel.Apply(wanted)
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
	return errors.Join(failed, err, n.restoreLinksLocked())
}

func (n *Network) publishLocked() {
	own := n.mem.Own
	if len(own.Subnets) > 0 && own.Endpoint.Addr.IsValid() && !reflect.DeepEqual(own, n.published) {
		n.cfg.Leases.SetLease(own)
		n.published = own
	}
}

func (n *Network) inputLocked(under datapath.Underlay) datapath.Input {
	in := datapath.Input{
		NodeID: n.cfg.NodeID, Subnets: n.mem.Own.Subnets, GrantRevision: n.mem.Own.GrantRevision, Underlay: under,
		ServiceCIDRs: n.cfg.ServiceCIDRs, ClusterDNS: n.cfg.ClusterDNS,
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

// rememberLocked makes mem what this node knows, once it is on disk.
func (n *Network) rememberLocked(mem memory) error {
	if reflect.DeepEqual(mem, n.mem) {
		return nil
	}
	if err := mem.write(n.memory); err != nil {
		return err
	}
	n.mem = mem
	return nil
}

// setGrant takes note of the subnets granted to this node.
func (n *Network) setGrant(subnets []netip.Prefix, revision uint64) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	mem := n.mem
	mem.Own = granted(mem.Own, subnets, revision)
	if slices.Equal(mem.Own.Subnets, n.mem.Own.Subnets) {
		return nil
	}
	if err := n.rememberLocked(mem); err != nil {
		return err
	}
	n.log.Info("this node's pods get addresses from a new subnet", "subnets", mem.Own.Subnets, "revision", revision)
	n.book.SetSubnets(mem.Own.Subnets)
	n.wake()
	return nil
}

// Teardown removes everything this room ever made in the kernel and on disk. The
// Network must not run any more, and its pods should be gone.
func (n *Network) Teardown() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	err := errors.Join(n.kernel.Remove(), n.rules.Teardown())
	if err == nil {
		err = os.RemoveAll(n.cfg.DataDir)
	}
	return err
}

// Close ends the conversation with the kernel and the watches; after Run has returned.
func (n *Network) Close() {
	n.stopDead()
	n.kernel.Close()
}

// baseLocked is what the nftables table depends on besides Services.
func (n *Network) baseLocked() nft.Base {
	return nft.Base{
		Subnets: n.mem.Own.Subnets, ClusterCIDRs: n.cfg.ClusterCIDRs, ServiceCIDRs: n.cfg.ServiceCIDRs,
		Bridge: datapath.BridgeName, Tunnel: datapath.TunnelName,
	}
}
