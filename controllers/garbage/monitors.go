package garbage

import (
	"context"
	"maps"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/tools/cache"
)

const (
	// rediscover is how often new kinds are looked for. It only reads.
	rediscover = 30 * time.Second
	// syncPatience is how long one look waits for new kinds to be listed.
	syncPatience = 30 * time.Second
)

// resource is a kind of object that can be collected.
type resource struct {
	gvr        schema.GroupVersionResource
	namespaced bool
}

// monitor watches the metadata of one resource.
type monitor struct {
	informer cache.SharedIndexInformer
	stop     context.CancelFunc
}

// monitors watch every resource. run owns running; the rest is guarded.
type monitors struct {
	running map[schema.GroupVersionResource]monitor
	group   sync.WaitGroup

	mu    sync.Mutex
	kinds map[schema.GroupKind]resource
}

func (m *monitors) kind(gk schema.GroupKind) (resource, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.kinds[gk]
	return r, ok
}

// kindOf is the kind of a resource, empty if it is not known any more.
func (m *monitors) kindOf(gvr schema.GroupVersionResource) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	for gk, r := range m.kinds {
		if r.gvr == gvr {
			return gk.Kind
		}
	}
	return ""
}

// follow discovers kinds until ctx ends; ready is called after the first time that
// all known kinds are synced.
func (c *Controller) follow(ctx context.Context, ready func()) {
	m := &c.monitors
	defer m.group.Wait()
	ticker := time.NewTicker(rediscover)
	defer ticker.Stop()
	started := false
	for {
		if c.discover(ctx) && !started {
			started = true
			ready()
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// discover starts monitors for new kinds and stops those of kinds that are gone. It
// answers whether all kinds are known and synced.
func (c *Controller) discover(ctx context.Context) bool {
	lists, err := c.discovery.ServerPreferredResourcesWithContext(ctx)
	if err != nil {
		c.log.Warn("not all kinds could be discovered", "error", err)
		if len(lists) == 0 {
			return false
		}
	}
	kinds, resources := collectable(lists)
	m := &c.monitors
	m.mu.Lock()
	if err != nil { // a group that did not answer keeps its kinds
		for gk, r := range m.kinds {
			if _, ok := kinds[gk]; !ok {
				kinds[gk] = r
				resources[r.gvr] = true
			}
		}
	}
	m.kinds = kinds
	m.mu.Unlock()
	for gvr, running := range maps.Clone(m.running) {
		if !resources[gvr] {
			running.stop()
			delete(m.running, gvr)
		}
	}
	for gvr := range resources {
		if _, ok := m.running[gvr]; !ok {
			c.monitor(ctx, gvr)
		}
	}
	return c.synced(ctx)
}

func (c *Controller) synced(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, syncPatience)
	defer cancel()
	for gvr, m := range c.monitors.running {
		if !cache.WaitForCacheSync(ctx.Done(), m.informer.HasSynced) {
			if ctx.Err() == context.DeadlineExceeded {
				c.log.Warn("objects are not listed yet, nothing is collected before", "resource", gvr.String())
			}
			return false
		}
	}
	return true
}

func (c *Controller) monitor(ctx context.Context, gvr schema.GroupVersionResource) {
	informer := metadatainformer.NewFilteredMetadataInformer(c.metadata, gvr, metav1.NamespaceAll, 0, cache.Indexers{}, nil).Informer()
	if err := informer.SetTransform(bare); err != nil {
		c.log.Error("metadata informer refused its transform", "resource", gvr.String(), "error", err)
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { c.seen(gvr, obj) },
		UpdateFunc: func(_, obj any) { c.seen(gvr, obj) },
		DeleteFunc: c.gone,
	})
	if err != nil {
		c.log.Error("metadata informer refused its handler", "resource", gvr.String(), "error", err)
		return
	}
	ctx, stop := context.WithCancel(ctx)
	c.monitors.running[gvr] = monitor{informer, stop}
	c.monitors.group.Go(func() { informer.RunWithContext(ctx) })
}

// bare keeps what collecting needs.
func bare(obj any) (any, error) {
	if o, ok := obj.(*metav1.PartialObjectMetadata); ok {
		o.Labels, o.Annotations, o.ManagedFields = nil, nil, nil
	}
	return obj, nil
}

// collectable picks the resources that can be listed, watched and deleted, without
// events, which own nothing and expire by themselves.
func collectable(lists []*metav1.APIResourceList) (map[schema.GroupKind]resource, map[schema.GroupVersionResource]bool) {
	kinds, resources := map[schema.GroupKind]resource{}, map[schema.GroupVersionResource]bool{}
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			continue
		}
		for _, r := range list.APIResources {
			kinds[gv.WithKind(r.Kind).GroupKind()] = resource{gv.WithResource(r.Name), r.Namespaced}
		}
	}
	able := discovery.SupportsAllVerbs{Verbs: []string{"delete", "list", "watch"}}
	for _, list := range discovery.FilteredBy(able, lists) {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			continue
		}
		for _, r := range list.APIResources {
			if r.Name != "events" {
				resources[gv.WithResource(r.Name)] = true
			}
		}
	}
	return kinds, resources
}
