// Package resourcequota keeps the status of ResourceQuotas: how much of each limit
// is used. Admission in the API takes from it when something is made; here is
// counted what there is, so that what goes is given back.
//
// plan.go decides and is pure; controller.go does, and count.go watches what is only counted. A quota is handled by one worker
// at a time. Only controllers imports this package.
package resourcequota

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"

	"kontiki/controllers/loop"
	"kontiki/controllers/podview"
)

// Name is the controller's name in logs.
const (
	Name    = "resourcequota"
	workers = 3
	// recount is how often all is counted anew without any event, as upstream.
	recount = 5 * time.Minute
	// catchUp is how soon it is looked again whether caches know what the quota
	// knows; patience how long a lower count waits for that.
	catchUp  = time.Second
	patience = 30 * time.Second
)

// Controller keeps the status of quotas.
type Controller struct {
	client   kubernetes.Interface
	metadata metadata.Interface
	mapper   meta.ResettableRESTMapper
	served   Kinds
	now      func() time.Time

	quotas   corelisters.ResourceQuotaLister
	pods     corelisters.PodLister
	services corelisters.ServiceLister
	claims   corelisters.PersistentVolumeClaimLister

	quotaInformer, podInformer, serviceInformer, claimInformer cache.SharedIndexInformer
	loop                                                       *loop.Loop

	counting sync.WaitGroup // what count.go started

	mu      sync.Mutex                       // protects the two below
	kinds   map[schema.GroupResource]counter // that are only counted
	waiting map[string]time.Time             // quotas whose lower count waits, and since when
}

// New makes the controller on shared informers.
func New(client kubernetes.Interface, objects metadata.Interface, mapper meta.ResettableRESTMapper, served Kinds, shared informers.SharedInformerFactory, log *slog.Logger, now func() time.Time) *Controller {
	core := shared.Core().V1()
	return &Controller{
		client: client, metadata: objects, mapper: mapper, served: served, now: now,
		quotas: core.ResourceQuotas().Lister(), pods: core.Pods().Lister(), services: core.Services().Lister(), claims: core.PersistentVolumeClaims().Lister(),
		quotaInformer: core.ResourceQuotas().Informer(), podInformer: core.Pods().Informer(),
		serviceInformer: core.Services().Informer(), claimInformer: core.PersistentVolumeClaims().Informer(),
		loop:  loop.New(Name, log),
		kinds: map[schema.GroupResource]counter{}, waiting: map[string]time.Time{},
	}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer c.counting.Wait()
	defer cancel()
	err := loop.On(c.loop, c.quotaInformer, func(_, after *corev1.ResourceQuota) {
		if after != nil {
			c.loop.AddObject(after)
		}
	})
	if err != nil {
		return err
	}
	err = loop.On(c.loop, c.podInformer, func(before, after *corev1.Pod) {
		if before == nil || after == nil || podview.Finished(before) != podview.Finished(after) || before.Generation != after.Generation ||
			(before.DeletionTimestamp == nil) != (after.DeletionTimestamp == nil) {
			c.changed(first(before, after).Namespace)
		}
	})
	if err != nil {
		return err
	}
	err = loop.On(c.loop, c.serviceInformer, func(before, after *corev1.Service) {
		if before == nil || after == nil || before.Generation != after.Generation || before.Spec.Type != after.Spec.Type || len(before.Spec.Ports) != len(after.Spec.Ports) {
			c.changed(first(before, after).Namespace)
		}
	})
	if err != nil {
		return err
	}
	err = loop.On(c.loop, c.claimInformer, func(before, after *corev1.PersistentVolumeClaim) {
		c.changed(first(before, after).Namespace)
	})
	if err != nil {
		return err
	}
	c.counting.Go(func() { c.sweep(ctx) })
	return c.loop.Run(ctx, workers, c.sync)
}

func first[T any](a, b *T) *T {
	if a != nil {
		return a
	}
	return b
}

// changed queues the quotas of a namespace.
func (c *Controller) changed(namespace string) {
	quotas, err := c.quotas.ResourceQuotas(namespace).List(labels.Everything())
	if err != nil {
		return // a lister that reads a cache does not fail
	}
	for _, q := range quotas {
		c.loop.AddObject(q)
	}
}

func (c *Controller) sync(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	quota, err := c.quotas.ResourceQuotas(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.settled(key)
		return nil
	}
	if err != nil {
		return err
	}
	w, known, err := c.look(ctx, quota)
	if err != nil {
		return err
	}
	status, again := plan(w)
	if again == 0 {
		again = recount
	}
	c.loop.AddAfter(key, min(again, recount))
	if status == nil {
		c.settled(key)
		return nil
	}
	if behind(known, lowers(quota, status), quota.ResourceVersion) && c.wait(key) {
		c.loop.AddAfter(key, catchUp)
		return nil
	}
	update := quota.DeepCopy()
	update.Status = *status
	if _, err := c.client.CoreV1().ResourceQuotas(namespace).UpdateStatus(ctx, update, metav1.UpdateOptions{}); err != nil {
		return err
	}
	c.settled(key)
	return nil
}

// look gathers what there is in the quota's namespace, and up to which revision each
// cache knows it.
func (c *Controller) look(ctx context.Context, quota *corev1.ResourceQuota) (w world, known map[source]string, err error) {
	w = world{quota: quota, counts: map[corev1.ResourceName]int64{}, now: c.now()}
	ns := quota.Namespace
	if w.pods, err = c.pods.Pods(ns).List(labels.Everything()); err != nil {
		return w, nil, err
	}
	if w.services, err = c.services.Services(ns).List(labels.Everything()); err != nil {
		return w, nil, err
	}
	if w.claims, err = c.claims.PersistentVolumeClaims(ns).List(labels.Everything()); err != nil {
		return w, nil, err
	}
	known = map[source]string{
		pods: c.podInformer.LastSyncResourceVersion(), services: c.serviceInformer.LastSyncResourceVersion(), claims: c.claimInformer.LastSyncResourceVersion(),
	}
	for name := range quota.Spec.Hard {
		kind, counted := countedKind(name)
		if !counted {
			continue
		}
		informer, err := c.count(ctx, kind)
		if err != nil {
			return w, nil, fmt.Errorf("count %s for quota %s/%s: %w", kind, ns, quota.Name, err)
		}
		if informer == nil {
			continue // there are none of a kind that is not served, or not kept
		}
		objects, err := informer.Lister().ByNamespace(ns).List(labels.Everything())
		if err != nil {
			return w, nil, err
		}
		w.counts[name] = int64(len(objects))
		known[sourceOf(name)] = informer.Informer().LastSyncResourceVersion()
	}
	return w, known, nil
}

// behind says whether a cache that one of the names is counted from does not know all
// that was when the quota was last written: what admission then let in may be missing.
func behind(known map[source]string, names []corev1.ResourceName, resourceVersion string) bool {
	at, err := strconv.ParseUint(resourceVersion, 10, 64)
	if err != nil {
		return false // an API that does not count its versions
	}
	for _, name := range names {
		if n, err := strconv.ParseUint(known[sourceOf(name)], 10, 64); err == nil && n < at {
			return true
		}
	}
	return false
}

// wait says whether a lower count is still to wait for the caches.
func (c *Controller) wait(key string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	since, ok := c.waiting[key]
	if !ok {
		c.waiting[key] = c.now()
		return true
	}
	return c.now().Sub(since) < patience
}

func (c *Controller) settled(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, key)
}
