package overlay

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"kontiki/overlay/datapath"
	"kontiki/overlay/dns"
	"kontiki/overlay/service"
)

// objects is the local copy of what the overlay reads through the API.
type objects struct {
	all, self, config           informers.SharedInformerFactory
	services, slices, node, dns cache.SharedIndexInformer
	ranges                      cache.SharedIndexInformer // of Services: ServiceCIDRs
}

func newObjects(client kubernetes.Interface, nodeName string) *objects {
	o := &objects{
		all: informers.NewSharedInformerFactory(client, 0),
		self: informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTweakListOptions(func(opts *metav1.ListOptions) {
			opts.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, nodeName).String()
		})),
		config: informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(dnsConfigNamespace), informers.WithTweakListOptions(func(opts *metav1.ListOptions) {
			opts.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, dnsConfigName).String()
		})),
	}
	o.dns = o.config.Core().V1().ConfigMaps().Informer()
	o.services = o.all.Core().V1().Services().Informer()
	o.slices = o.all.Discovery().V1().EndpointSlices().Informer()
	o.ranges = o.all.Networking().V1().ServiceCIDRs().Informer()
	o.node = o.self.Core().V1().Nodes().Informer()
	return o
}

func (o *objects) start(ctx context.Context) {
	o.all.Start(ctx.Done())
	o.self.Start(ctx.Done())
	o.config.Start(ctx.Done())
}

// wait returns once what start started has ended.
func (o *objects) wait() {
	o.all.Shutdown()
	o.self.Shutdown()
	o.config.Shutdown()
}

// follow subscribes to all that Run will start.
func (n *Network) follow() error {
	forServices, forSlices := dns.Indexers()
	maps.Copy(forSlices, cache.Indexers{service.ByService: service.IndexByService})
	if err := n.objects.services.AddIndexers(forServices); err != nil {
		return fmt.Errorf("following Services: %w", err)
	}
	if err := n.objects.slices.AddIndexers(forSlices); err != nil {
		return fmt.Errorf("following EndpointSlices: %w", err)
	}
	if err := n.followGrant(); err != nil {
		return err
	}
	if err := n.followRanges(); err != nil {
		return err
	}
	_, err := n.objects.dns.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { n.dnsConfigChanged() },
		UpdateFunc: func(_, _ any) { n.dnsConfigChanged() },
		DeleteFunc: func(any) { n.dnsConfigChanged() },
	})
	if err != nil {
		return fmt.Errorf("following the DNS settings: %w", err)
	}
	cfg := service.Config{
		NodeName: n.cfg.NodeName, Services: n.objects.services, Slices: n.objects.slices, Self: n.objects.node,
		Programmer: programmer{n.rules, n.forget, &n.figures}, Reserved: n.cfg.ClusterDNS, Logger: n.log,
		Address: n.cfg.Underlay, ReservedPorts: append([]uint16{datapath.Port}, n.cfg.ReservedPorts...), Health: n.health,
	}
	n.stopDead = func() {}
	if n.cfg.Dead != nil {
		cfg.Dead = n.cfg.Dead.Dead
		cfg.DeadChanged, n.stopDead = n.cfg.Dead.WatchDead()
	}
	n.watcher, err = service.NewWatcher(cfg)
	return err
}

// followGrant has the loop look again whenever this node's object changes.
func (n *Network) followGrant() error {
	_, err := n.objects.node.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { n.wake() },
		UpdateFunc: func(_, _ any) { n.wake() },
	})
	if err != nil {
		return fmt.Errorf("following this node's subnet: %w", err)
	}
	return nil
}

// followRanges has the loop look again whenever a ServiceCIDR comes or goes.
func (n *Network) followRanges() error {
	_, err := n.objects.ranges.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { n.wake() },
		UpdateFunc: func(_, _ any) { n.wake() },
		DeleteFunc: func(any) { n.wake() },
	})
	if err != nil {
		return fmt.Errorf("following the ranges of Services: %w", err)
	}
	return nil
}

// grantSeen returns the subnets (Node.spec.podCIDRs) in the local copy of this
// node's object, and the revision of that copy.
func (o *objects) grantSeen(nodeName string) ([]netip.Prefix, uint64) {
	obj, ok, err := o.node.GetStore().GetByKey(nodeName)
	if err != nil || !ok {
		return nil, 0
	}
	node, ok := obj.(*corev1.Node)
	if !ok {
		return nil, 0
	}
	revision, err := strconv.ParseUint(node.ResourceVersion, 10, 64)
	if err != nil {
		return nil, 0
	}
	return subnetsOf(node), revision
}

func subnetsOf(node *corev1.Node) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range node.Spec.PodCIDRs {
		if p, err := netip.ParsePrefix(s); err == nil {
			out = append(out, p.Masked())
		}
	}
	return out
}
