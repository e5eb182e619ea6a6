// Package podsubnet grants each Node its pod subnet: Node.spec.podCIDRs, set once
// per node and never two nodes one subnet. A subnet is free again when the Node
// object is gone, and with it every pod that had an address of it.
//
// One worker decides, so two grants are never decided from the same picture; what
// it granted and the cache does not show yet is remembered. Across leaders, the
// fenced client and the barrier before the caches are filled do the same. Only
// controllers imports this package.
package podsubnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"kontiki/controllers/loop"
)

// Name is the controller's name in logs; Component is the source of its events.
const (
	Name      = "podsubnet"
	Component = "cidrAllocator"
)

// allNodes is the only key: grants are decided over all nodes at once.
const allNodes = "nodes"

// Controller grants pod subnets.
type Controller struct {
	client   kubernetes.Interface
	events   record.EventRecorder
	pool     pool
	informer cache.SharedIndexInformer
	nodes    corelisters.NodeLister
	podsSeen cache.SharedIndexInformer
	pods     corelisters.PodLister
	loop     *loop.Loop
	waiting  atomic.Bool // a node got nothing: a pod that goes may make room

	// Of the one worker.
	made   map[string]netip.Prefix // by node UID, until the cache shows it
	unsure map[string]bool         // those of made whose write has no known outcome
	told   map[string]bool         // nodes, by name, that were told that there is nothing for them
	next   int
}

// New makes the controller; it refuses a range that cannot be cut.
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, events record.EventRecorder, log *slog.Logger, cluster netip.Prefix, nodePrefixLen int) (*Controller, error) {
	p, err := newPool(cluster, nodePrefixLen)
	if err != nil {
		return nil, err
	}
	nodes, pods := shared.Core().V1().Nodes(), shared.Core().V1().Pods()
	return &Controller{
		client: client, events: events, pool: p,
		informer: nodes.Informer(), nodes: nodes.Lister(),
		podsSeen: pods.Informer(), pods: pods.Lister(),
		loop: loop.New(Name, log),
		made: map[string]netip.Prefix{}, unsure: map[string]bool{},
	}, nil
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	// A node that is there and has nothing yet waits for a write, which is tried again by
	// itself, or for room: what else happens to it is no reason to look at all of them.
	err := loop.On(c.loop, c.informer, func(before, after *corev1.Node) {
		if before == nil || after == nil {
			c.loop.Add(allNodes)
		}
	})
	if err != nil {
		return err
	}
	err = loop.On(c.loop, c.podsSeen, func(before, after *corev1.Pod) {
		if c.waiting.Load() && leftAddresses(before, after) {
			c.loop.Add(allNodes)
		}
	})
	if err != nil {
		return err
	}
	return c.loop.Run(ctx, 1, c.sync)
}

// leftAddresses says whether a pod had addresses and has none any more.
func leftAddresses(before, after *corev1.Pod) bool {
	return before != nil && len(addressesOf(before)) > 0 && (after == nil || len(addressesOf(after)) == 0)
}

func (c *Controller) sync(ctx context.Context, _ string) error {
	c.waiting.Store(true) // until it is known: what a pod leaves while this looks has it look again
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return err
	}
	pods, err := c.pods.List(labels.Everything())
	if err != nil {
		return err
	}
	c.forgetShown(nodes)
	d := plan(c.pool, nodes, pods, c.made, c.next)
	c.next = d.Next
	c.waiting.Store(len(d.Exhausted) > 0)
	c.tell(d.Exhausted)
	var failures []error
	for _, node := range nodes {
		if uid := string(node.UID); c.unsure[uid] {
			failures = append(failures, c.grant(ctx, grant{node.Name, uid, c.made[uid]}))
		}
	}
	for _, g := range d.Grants {
		failures = append(failures, c.grant(ctx, g))
	}
	return errors.Join(failures...)
}

// tell has an event for each node that gets nothing, once as long as that is so.
func (c *Controller) tell(exhausted []string) {
	told := make(map[string]bool, len(exhausted))
	for _, name := range exhausted {
		told[name] = true
		if c.told[name] {
			continue
		}
		if node, err := c.nodes.Get(name); err == nil { // it may have gone since it was listed
			c.events.Eventf(node, corev1.EventTypeNormal, "CIDRNotAvailable", "Node %s status is now: CIDRNotAvailable", name)
		}
	}
	c.told = told
}

func (c *Controller) forgetShown(nodes []*corev1.Node) {
	waiting := map[string]bool{}
	for _, node := range nodes {
		if len(held(node)) == 0 {
			waiting[string(node.UID)] = true
		}
	}
	for uid := range c.made {
		if !waiting[uid] {
			delete(c.made, uid)
			delete(c.unsure, uid)
		}
	}
}

// grant writes one subnet. The UID in the patch makes it fail for a node that was
// deleted and made again; the API refuses to change a subnet that is set. An
// outcome that is unknown keeps the subnet reserved for that node, and the next
// pass writes the same one again.
func (c *Controller) grant(ctx context.Context, g grant) error {
	patch := fmt.Appendf(nil, `{"metadata":{"uid":%q},"spec":{"podCIDR":%q,"podCIDRs":[%q]}}`, g.UID, g.Subnet, g.Subnet)
	c.made[g.UID], c.unsure[g.UID] = g.Subnet, true
	_, err := c.client.CoreV1().Nodes().Patch(ctx, g.Node, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	if err == nil {
		delete(c.unsure, g.UID)
		c.events.Eventf(&corev1.ObjectReference{Kind: "Node", Name: g.Node, UID: types.UID(g.Node)}, corev1.EventTypeNormal, "SubnetGranted", "Pods of the node get addresses of %s", g.Subnet)
		return nil
	}
	if refused(err) {
		delete(c.made, g.UID)
		delete(c.unsure, g.UID)
		if apierrors.IsNotFound(err) {
			return nil
		}
	}
	return fmt.Errorf("grant %s to node %s: %w", g.Subnet, g.Node, err)
}

// refused says whether it is certain that nothing was written.
func refused(err error) bool {
	return apierrors.IsNotFound(err) || apierrors.IsConflict(err) || apierrors.IsInvalid(err) || apierrors.IsForbidden(err)
}
