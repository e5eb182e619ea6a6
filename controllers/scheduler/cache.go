package scheduler

import (
	"maps"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// Snapshot is a picture of the cluster that does not change.
type Snapshot struct {
	nodes []*nodeInfo // by name
	// start is where the search for feasible nodes begins, so that in a large
	// cluster not always the same nodes are looked at.
	start int
	// nominated are waiting pods for which room is being made, by node.
	nominated map[string][]*placed
	budgets   []budget
	// selector finds what counts as "the same" for default spreading: the
	// Services and the ReplicaSet or StatefulSet of a pod. Nil is nothing.
	selector func(*corev1.Pod) labels.Selector
	// namespace answers the labels of a namespace.
	namespace func(string) labels.Set
	volumes   volumeView
	// domains are those of node labels that were numbered before, for the same nodes
	// with the same labels. Planning adds to them. Nil is none.
	domains map[string]*domains
}

// nodeCache holds nodes and the pods on them. It is safe for concurrent use.
type nodeCache struct {
	mu      sync.Mutex           // protects all below
	names   []string             // of nodes, sorted; those with a Node object
	nodes   map[string]*nodeInfo // also of nodes of which only pods are known
	where   map[types.UID]placing
	changed bool // names have to be worked out again
	// domains belong to whoever plans; they are replaced when nodes or their labels change.
	domains map[string]*domains
}

type placing struct {
	*placed
	node    string
	assumed bool // planned here, and not seen bound yet
}

func newCache() *nodeCache {
	return &nodeCache{nodes: map[string]*nodeInfo{}, where: map[types.UID]placing{}}
}

func (c *nodeCache) setNode(node *corev1.Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	info := c.infoLocked(node.Name)
	c.changed = c.changed || info.node == nil
	if info.node == nil || !maps.Equal(info.node.Labels, node.Labels) {
		c.domains = nil
	}
	c.nodes[node.Name] = info.withNode(node)
}

func (c *nodeCache) removeNode(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	info, ok := c.nodes[name]
	if !ok {
		return
	}
	c.changed = true
	c.domains = nil
	c.keepLocked(name, info.withNode(nil))
}

// setPod takes note of a pod that is bound, and ends its being assumed.
func (c *nodeCache) setPod(pod *corev1.Pod) *placed {
	c.mu.Lock()
	defer c.mu.Unlock()
	old, known := c.where[pod.UID]
	if known && old.node == pod.Spec.NodeName && onlyBound(old.pod, pod) {
		p := old.as(pod)
		if p.shape == old.shape {
			c.replaceLocked(old, p, false)
			return p
		}
		c.removeLocked(pod.UID)
		c.addLocked(p, pod.Spec.NodeName, false)
		return p
	}
	p := place(pod)
	p.preempted = p.preempted || known && old.preempted
	c.removeLocked(pod.UID)
	c.addLocked(p, pod.Spec.NodeName, false)
	return p
}

// onlyBound says whether two versions of a pod request the same: it was given its
// node, or began to run there.
func onlyBound(before, after *corev1.Pod) bool {
	return (before.Spec.NodeName == "" && len(after.Status.ContainerStatuses) == 0 || before.Generation == after.Generation) &&
		(before.DeletionTimestamp == nil) == (after.DeletionTimestamp == nil)
}

func (c *nodeCache) removePod(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.removeLocked(uid)
}

// assume counts a pod on a node before its binding is written.
func (c *nodeCache) assume(p *placed, node string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.where[p.pod.UID]; !ok {
		c.addLocked(p, node, true)
	}
}

// forget undoes assume; a pod that was seen bound meanwhile stays.
func (c *nodeCache) forget(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.where[uid].assumed {
		c.removeLocked(uid)
	}
}

// preempted notes that a pod was told to go, until events say so.
func (c *nodeCache) preempted(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if old, ok := c.where[uid]; ok && !old.preempted {
		p := old.as(old.pod)
		p.preempted = true
		c.replaceLocked(old, p, old.assumed)
	}
}

// knows says whether the pod is bound or assumed.
func (c *nodeCache) knows(uid types.UID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.where[uid]
	return ok
}

// maxDomains is how many labels' domains are kept from round to round, some bytes a node each.
const maxDomains = 64

// infos are the nodes as they are now, by name, and the domains of their labels that are
// known, for one goroutine that plans.
func (c *nodeCache) infos() ([]*nodeInfo, map[string]*domains) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changed {
		c.names = c.names[:0]
		for name, info := range c.nodes {
			if info.node != nil {
				c.names = append(c.names, name)
			}
		}
		slices.Sort(c.names)
		c.changed = false
	}
	infos := make([]*nodeInfo, len(c.names))
	for i, name := range c.names {
		infos[i] = c.nodes[name]
	}
	// Only who plans adds to it, between calls of this. Users choose the keys.
	if c.domains == nil || len(c.domains) > maxDomains {
		c.domains = map[string]*domains{}
	}
	return infos, c.domains
}

func (c *nodeCache) infoLocked(name string) *nodeInfo {
	if info, ok := c.nodes[name]; ok {
		return info
	}
	return &nodeInfo{}
}

func (c *nodeCache) addLocked(p *placed, node string, assumed bool) {
	c.where[p.pod.UID] = placing{p, node, assumed}
	c.nodes[node] = c.infoLocked(node).with(p)
}

func (c *nodeCache) replaceLocked(old placing, p *placed, assumed bool) {
	c.where[p.pod.UID] = placing{p, old.node, assumed}
	c.nodes[old.node] = c.infoLocked(old.node).replacing(old.placed, p)
}

func (c *nodeCache) removeLocked(uid types.UID) {
	p, ok := c.where[uid]
	if !ok {
		return
	}
	delete(c.where, uid)
	c.keepLocked(p.node, c.infoLocked(p.node).without(uid))
}

func (c *nodeCache) keepLocked(name string, info *nodeInfo) {
	if info.node == nil && len(info.pods) == 0 {
		delete(c.nodes, name)
		return
	}
	c.nodes[name] = info
}
