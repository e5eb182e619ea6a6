package resourcequota

import (
	"context"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/tools/cache"
)

const (
	// listPatience is how long a worker waits for a kind to be listed before the
	// quota comes back later.
	listPatience = 5 * time.Second
	// sweepPeriod is how often what no quota names any more is let go, and how soon
	// a kind that could not be counted may be asked about anew.
	sweepPeriod = 30 * time.Second
)

// Kinds tells what can be done with the kinds of a version.
type Kinds interface {
	ServerResourcesForGroupVersionWithContext(ctx context.Context, groupVersion string) (*metav1.APIResourceList, error)
}

// counter watches a kind that is only counted; without an informer the kind is not
// served, or cannot be listed and watched.
type counter struct {
	informer informers.GenericInformer
	stop     context.CancelFunc
}

// count is the synced informer of a kind, started when it is first asked for; nil if
// there is nothing to count.
func (c *Controller) count(ctx context.Context, kind schema.GroupResource) (informers.GenericInformer, error) {
	known, err := c.counter(ctx, kind)
	if err != nil || known.informer == nil {
		return nil, err
	}
	patient, cancel := context.WithTimeout(ctx, listPatience)
	defer cancel()
	if !cache.WaitForCacheSync(patient.Done(), known.informer.Informer().HasSynced) {
		return nil, fmt.Errorf("not listed yet: %w", patient.Err())
	}
	return known.informer, nil
}

func (c *Controller) counter(ctx context.Context, kind schema.GroupResource) (counter, error) {
	c.mu.Lock()
	known, ok := c.kinds[kind]
	c.mu.Unlock()
	if ok {
		return known, nil
	}
	gvr, ok, err := c.countable(ctx, kind)
	if err != nil {
		return counter{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if known, ok := c.kinds[kind]; ok { // another worker was faster
		return known, nil
	}
	made := counter{}
	if ok {
		if made, err = c.watch(ctx, gvr); err != nil {
			return counter{}, err
		}
	}
	c.kinds[kind] = made
	return made, nil
}

// countable finds the version of a kind that can be listed and watched. It looks
// once more where a kind is not known: it may have been defined since.
func (c *Controller) countable(ctx context.Context, kind schema.GroupResource) (gvr schema.GroupVersionResource, ok bool, err error) {
	gvr, err = c.mapper.ResourceFor(kind.WithVersion(""))
	if meta.IsNoMatchError(err) {
		c.mapper.Reset()
		gvr, err = c.mapper.ResourceFor(kind.WithVersion(""))
	}
	if meta.IsNoMatchError(err) {
		return gvr, false, nil
	}
	if err != nil {
		return gvr, false, err
	}
	served, err := c.served.ServerResourcesForGroupVersionWithContext(ctx, gvr.GroupVersion().String())
	if apierrors.IsNotFound(err) {
		return gvr, false, nil
	}
	if err != nil {
		return gvr, false, err
	}
	return gvr, slices.ContainsFunc(served.APIResources, func(r metav1.APIResource) bool {
		return r.Name == gvr.Resource && slices.Contains(r.Verbs, "list") && slices.Contains(r.Verbs, "watch")
	}), nil
}

func (c *Controller) watch(ctx context.Context, gvr schema.GroupVersionResource) (counter, error) {
	informer := metadatainformer.NewFilteredMetadataInformer(c.metadata, gvr, metav1.NamespaceAll, 0, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}, nil)
	changed := func(obj any) {
		if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = gone.Obj
		}
		if o, ok := obj.(*metav1.PartialObjectMetadata); ok {
			c.changed(o.Namespace)
		}
	}
	if _, err := informer.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: changed, DeleteFunc: changed}); err != nil {
		return counter{}, err
	}
	ctx, stop := context.WithCancel(ctx)
	c.counting.Go(func() { informer.Informer().RunWithContext(ctx) })
	return counter{informer, stop}, nil
}

// sweep lets go, until ctx ends, of what no quota names any more.
func (c *Controller) sweep(ctx context.Context) {
	ticker := time.NewTicker(sweepPeriod)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			c.letGo()
		}
	}
}

// letGo stops the counters of kinds that no quota names, and forgets which could not
// be counted. A worker that has one of these still finds what it last held: what it
// counts there is of a quota that changed, and its write is refused.
func (c *Controller) letGo() {
	c.mu.Lock()
	defer c.mu.Unlock()
	quotas, err := c.quotas.List(labels.Everything())
	if err != nil {
		return // a lister that reads a cache does not fail
	}
	named := map[schema.GroupResource]bool{}
	for _, quota := range quotas {
		for name := range quota.Spec.Hard {
			if kind, counted := countedKind(name); counted {
				named[kind] = true
			}
		}
	}
	for kind, known := range c.kinds {
		if known.informer == nil {
			delete(c.kinds, kind)
		} else if !named[kind] {
			known.stop()
			delete(c.kinds, kind)
		}
	}
}
