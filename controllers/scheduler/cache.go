package scheduler

import (
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
	// selector finds what counts as "the same" for default spreading: the
	// Services and the ReplicaSet or StatefulSet of a pod. Nil is nothing.
	selector func(*corev1.Pod) labels.Selector
	// namespace answers the labels of a namespace.
	namespace func(string) labels.Set
}

// nodeCache holds nodes and the pods on them. It is safe for concurrent use.
type nodeCache struct {
	mu      sync.Mutex           // protects all below
	names   []string             // of nodes, sorted; those with a Node object
	nodes   map[string]*nodeInfo // also of nodes of which only pods are known
	where   map[types.UID]placing
	changed bool // names have to be worked out again
}

type placing struct {
	pod     *corev1.Pod
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
	c.keepLocked(name, info.withNode(nil))
}

// setPod takes note of a pod that is bound, and ends its being assumed.
func (c *nodeCache) setPod(pod *corev1.Pod) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.removeLocked(pod.UID)
	c.addLocked(pod, pod.Spec.NodeName, false)
}

func (c *nodeCache) removePod(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.removeLocked(uid)
}

// assume counts a pod on a node before its binding is written.
func (c *nodeCache) assume(pod *corev1.Pod, node string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.where[pod.UID]; !ok {
		c.addLocked(pod, node, true)
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

// knows says whether the pod is bound or assumed.
func (c *nodeCache) knows(uid types.UID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.where[uid]
	return ok
}

// infos are the nodes as they are now, by name.
func (c *nodeCache) infos() []*nodeInfo {
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
	return infos
}

func (c *nodeCache) infoLocked(name string) *nodeInfo {
	if info, ok := c.nodes[name]; ok {
		return info
	}
	return &nodeInfo{}
}

func (c *nodeCache) addLocked(pod *corev1.Pod, node string, assumed bool) {
	c.where[pod.UID] = placing{pod, node, assumed}
	c.nodes[node] = c.infoLocked(node).with(place(pod))
}

func (c *nodeCache) removeLocked(uid types.UID) {
	p, ok := c.where[uid]
	if !ok {
		return
	}
	delete(c.where, uid)
	c.keepLocked(p.node, c.infoLocked(p.node).without(p.pod))
}

func (c *nodeCache) keepLocked(name string, info *nodeInfo) {
	if info.node == nil && len(info.pods) == 0 {
		delete(c.nodes, name)
		return
	}
	c.nodes[name] = info
}
