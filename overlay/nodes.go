package overlay

import (
	"context"
	"net/netip"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// watchNodes follows the grants (Node.spec.podCIDRs). The function returned waits
// for its end, which is ctx's.
func (n *Network) watchNodes(ctx context.Context) (wait func()) {
	factory := informers.NewSharedInformerFactory(n.cfg.Client, 0)
	nodes := factory.Core().V1().Nodes()
	informer := nodes.Informer()
	changed := func(any) { n.readGrants(informer.HasSynced(), nodes.Lister()) }
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    changed,
		UpdateFunc: func(_, now any) { changed(now) },
		DeleteFunc: changed,
	})
	if err != nil {
		n.log.Error("following the nodes' subnets", "error", err)
	}
	factory.Start(ctx.Done())
	return factory.Shutdown
}

// readGrants takes over what the API says of subnets.
func (n *Network) readGrants(synced bool, lister corelisters.NodeLister) {
	nodes, err := lister.List(labels.Everything())
	if err != nil {
		return // the lister is a cache and does not fail
	}
	var own []netip.Prefix
	var revision uint64
	all := map[netip.Prefix]bool{}
	for _, node := range nodes {
		subnets := subnetsOf(node)
		for _, s := range subnets {
			all[s] = true
		}
		if node.Name == n.cfg.NodeName {
			own = subnets
			revision, _ = strconv.ParseUint(node.ResourceVersion, 10, 64)
		}
	}
	if !synced {
		all = nil
	}
	if err := n.setGrant(own, revision, all); err != nil {
		n.log.Error("keeping this node's subnet", "error", err)
	}
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
