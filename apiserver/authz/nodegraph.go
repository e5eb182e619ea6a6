package authz

import (
	"fmt"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"

	"kontiki/apiserver/podrefs"
)

// relation is what a pod can refer to.
type relation uint8

const (
	toPod relation = iota
	toSecret
	toConfigMap
	toClaim
	toResourceClaim
	toAccount
)

// related is an object that pods of a node refer to.
type related struct {
	kind            relation
	namespace, name string
}

// graph knows which objects the pods of each node refer to. It keeps names only;
// pods come and go through the methods of cache.ReflectorStore. It is safe for
// use by any number of goroutines.
type graph struct {
	mu    sync.RWMutex
	pods  map[string]bound             // by namespace/name
	nodes map[string]map[related]int32 // how many pods of a node refer to each
}

// bound is a pod on a node.
type bound struct {
	node string
	refs []related
}

var _ cache.ReflectorStore = &graph{}

func newGraph() *graph {
	return &graph{pods: map[string]bound{}, nodes: map[string]map[related]int32{}}
}

// has tells whether a pod of node refers to r.
func (g *graph) has(node string, r related) bool {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.nodes[node][r] > 0
}

// Add implements cache.ReflectorStore.
func (g *graph) Add(obj any) error { return g.Update(obj) }

// Update implements cache.ReflectorStore.
func (g *graph) Update(obj any) error {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return fmt.Errorf("the graph of nodes takes no %T", obj)
	}
	key, now := pod.Namespace+"/"+pod.Name, boundPod(pod)
	g.mu.Lock()
	defer g.mu.Unlock()
	if old, ok := g.pods[key]; !ok || old.node != now.node || !slices.Equal(old.refs, now.refs) {
		g.removeLocked(key)
		g.addLocked(key, now)
	}
	return nil
}

// Delete implements cache.ReflectorStore.
func (g *graph) Delete(obj any) error {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return fmt.Errorf("the graph of nodes takes no %T", obj)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.removeLocked(pod.Namespace + "/" + pod.Name)
	return nil
}

// Replace implements cache.ReflectorStore.
func (g *graph) Replace(objs []any, _ string) error {
	fresh := newGraph()
	for _, obj := range objs {
		if err := fresh.Update(obj); err != nil {
			return err
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pods, g.nodes = fresh.pods, fresh.nodes
	return nil
}

// Resync implements cache.ReflectorStore.
func (*graph) Resync() error { return nil }

func (g *graph) addLocked(key string, b bound) {
	if b.node == "" {
		return
	}
	g.pods[key] = b
	counts := g.nodes[b.node]
	if counts == nil {
		counts = map[related]int32{}
		g.nodes[b.node] = counts
	}
	for _, r := range b.refs {
		counts[r]++
	}
}

func (g *graph) removeLocked(key string) {
	b, ok := g.pods[key]
	if !ok {
		return
	}
	delete(g.pods, key)
	counts := g.nodes[b.node]
	for _, r := range b.refs {
		if counts[r]--; counts[r] <= 0 {
			delete(counts, r)
		}
	}
	if len(counts) == 0 {
		delete(g.nodes, b.node)
	}
}

// boundPod lists what a pod refers to, itself first. A mirror pod gives its node
// nothing: the node wrote it.
func boundPod(pod *corev1.Pod) bound {
	b := bound{node: pod.Spec.NodeName}
	if b.node == "" {
		return b
	}
	add := func(kind relation, name string) {
		b.refs = append(b.refs, related{kind, pod.Namespace, name})
	}
	add(toPod, pod.Name)
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return b
	}
	if pod.Spec.ServiceAccountName != "" {
		add(toAccount, pod.Spec.ServiceAccountName)
	}
	for name := range podrefs.Secrets(pod) {
		add(toSecret, name)
	}
	for name := range podrefs.ConfigMaps(pod) {
		add(toConfigMap, name)
	}
	for name := range podrefs.Claims(pod) {
		add(toClaim, name)
	}
	for name := range podrefs.ResourceClaims(pod) {
		add(toResourceClaim, name)
	}
	return b
}
