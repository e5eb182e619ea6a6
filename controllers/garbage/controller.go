// Package garbage is the garbage collector: it deletes objects whose owners are all
// gone, and carries out foreground and orphan deletion.
//
// A graph of owners and dependents is kept from metadata informers over every kind
// discovery finds. The graph only says where to look: before anything is deleted,
// its owners are read from the API itself, and the object, too, unless the deletion
// names the version that was decided on. plan.go decides and is pure. Several workers
// run, an object is handled by one at a time. Only controllers imports this package.
package garbage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"kontiki/controllers/loop"
)

// Name is the controller's name in logs; Component is the source of its events.
const (
	Name      = "garbage"
	Component = "garbage-collector-controller"
	workers   = 20
	// maxAbsent bounds the memory of owners known to be absent.
	maxAbsent = 1000
)

// Kinds answers which kinds the API serves: client-go's discovery client.
type Kinds interface {
	ServerPreferredResourcesWithContext(context.Context) ([]*metav1.APIResourceList, error)
}

// Controller is the garbage collector.
type Controller struct {
	metadata  metadata.Interface
	discovery Kinds
	events    record.EventRecorder
	log       *slog.Logger

	graph    *graph
	monitors monitors
	loop     *loop.Loop

	mu     sync.Mutex // protects absent
	absent map[ownerKey]struct{}
}

// ownerKey is an owner as seen from a namespace: a UID that is absent stays so.
type ownerKey struct {
	namespace string
	uid       types.UID
}

// New makes the collector.
func New(meta metadata.Interface, discovery Kinds, events record.EventRecorder, log *slog.Logger) *Controller {
	return &Controller{
		metadata: meta, discovery: discovery, events: events, log: log.With("controller", Name),
		graph:    newGraph(),
		monitors: monitors{running: map[schema.GroupVersionResource]monitor{}},
		loop:     loop.New(Name, log),
		absent:   map[ownerKey]struct{}{},
	}
}

// Run works until ctx ends. Nothing is collected before every kind is listed.
func (c *Controller) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	ready := make(chan struct{})
	var following sync.WaitGroup
	following.Go(func() { c.follow(ctx, func() { close(ready) }) })
	defer following.Wait()
	defer cancel()
	select {
	case <-ready:
	case <-ctx.Done():
	}
	return c.loop.Run(ctx, workers, c.sync)
}

func (c *Controller) seen(gvr schema.GroupVersionResource, obj any) {
	o, ok := obj.(*metav1.PartialObjectMetadata)
	if !ok {
		return
	}
	next := newItem(gvr, o)
	before, strays := c.graph.set(next)
	for _, s := range strays {
		c.tell(s)
	}
	if next.waits || next.orphans {
		c.loop.Add(string(next.uid))
		for _, d := range c.graph.dependentsOf(next.uid) {
			c.loop.Add(string(d.uid))
		}
		return
	}
	if next.deleting || len(next.owners) == 0 {
		return
	}
	if before == nil || !slices.EqualFunc(before.owners, next.owners, sameReference) {
		if slices.ContainsFunc(next.owners, func(o metav1.OwnerReference) bool {
			owner := c.graph.get(o.UID)
			return owner == nil || owner.deleting
		}) {
			c.loop.Add(string(next.uid))
		}
		if before != nil { // an owner may have waited for this one
			c.visitOwners(before)
		}
	}
}

// tell says on an object that its owner is not where it is looked for.
func (c *Controller) tell(s stray) {
	d, o := s.dependent, s.owner
	ref := &corev1.ObjectReference{
		APIVersion: d.resource.GroupVersion().String(), Kind: c.monitors.kindOf(d.resource), Namespace: d.namespace, Name: d.name, UID: d.uid,
	}
	c.events.Eventf(ref, corev1.EventTypeWarning, "OwnerRefInvalidNamespace", "ownerRef [%s/%s, namespace: %s, name: %s, uid: %s] does not exist in namespace %q",
		o.APIVersion, o.Kind, d.namespace, o.Name, o.UID, d.namespace)
}

func sameReference(a, b metav1.OwnerReference) bool {
	blocks := func(o metav1.OwnerReference) bool { return o.BlockOwnerDeletion != nil && *o.BlockOwnerDeletion }
	return a.UID == b.UID && blocks(a) == blocks(b)
}

func (c *Controller) gone(obj any) {
	if tombstone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = tombstone.Obj
	}
	o, ok := obj.(*metav1.PartialObjectMetadata)
	if !ok {
		return
	}
	gone := c.graph.remove(o.UID)
	for _, d := range c.graph.dependentsOf(o.UID) {
		c.loop.Add(string(d.uid))
	}
	if gone != nil {
		c.visitOwners(gone)
	}
}

func (c *Controller) visitOwners(i *item) {
	for _, o := range i.owners {
		if owner := c.graph.get(o.UID); owner != nil && owner.waits {
			c.loop.Add(string(owner.uid))
		}
	}
}

func (c *Controller) sync(ctx context.Context, key string) error {
	i := c.graph.get(types.UID(key))
	if i == nil || c.settledInGraph(i) {
		return nil
	}
	if done, err := c.removeSeen(ctx, i); done || err != nil {
		return err
	}
	live, err := c.client(i.resource, i.namespace).Get(ctx, i.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil // its event is on the way
	}
	if err != nil {
		return err
	}
	if live.UID != i.uid {
		return nil
	}
	now := newItem(i.resource, live)
	f, err := c.familyOf(ctx, now)
	if err != nil {
		return err
	}
	return c.do(ctx, now, plan(f))
}

// removeSeen deletes an object as the graph has it, without reading it first, if that is
// what is to be done with it: the deletion names the version, so it happens only to what
// was decided on. What has changed meanwhile is left to who reads it; where nothing is to
// be done, the event of a change comes.
func (c *Controller) removeSeen(ctx context.Context, i *item) (done bool, err error) {
	if i.version == "" || i.deleting {
		return false, nil
	}
	f, err := c.familyOf(ctx, i)
	if err != nil {
		return false, err
	}
	switch a := plan(f); a.Verb {
	case nothing:
		return true, nil
	case remove:
		if err := c.do(ctx, i, a); !apierrors.IsConflict(err) {
			return true, err
		}
	}
	return false, nil
}

// settledInGraph saves questions to the API: as far as is known nothing has to be
// done, and when that is old news, its event comes.
func (c *Controller) settledInGraph(i *item) bool {
	if i.waits || i.orphans {
		return false
	}
	return i.deleting || !slices.ContainsFunc(i.owners, func(o metav1.OwnerReference) bool {
		owner := c.graph.get(o.UID)
		return owner == nil || owner.waits
	})
}

func (c *Controller) client(gvr schema.GroupVersionResource, namespace string) metadata.ResourceInterface {
	if namespace == "" {
		return c.metadata.Resource(gvr)
	}
	return c.metadata.Resource(gvr).Namespace(namespace)
}

func (c *Controller) familyOf(ctx context.Context, i *item) (family, error) {
	f := family{
		deleting: i.deleting, waits: i.waits, orphans: i.orphans,
		owners: i.owners, finalizers: i.finalizers, states: map[types.UID]ownerState{},
		dependents: c.graph.awaitedBy(i.uid),
	}
	if i.deleting {
		return f, nil // owners do not matter any more
	}
	for _, o := range i.owners {
		state, err := c.stateOf(ctx, i, o)
		if err != nil {
			return family{}, err
		}
		f.states[o.UID] = state
	}
	return f, nil
}

// stateOf asks the API for an owner: what the graph lacks may only not be listed.
func (c *Controller) stateOf(ctx context.Context, i *item, o metav1.OwnerReference) (ownerState, error) {
	gv, err := schema.ParseGroupVersion(o.APIVersion)
	if err != nil {
		return solid, nil // nothing can be known of it
	}
	kind, ok := c.monitors.kind(gv.WithKind(o.Kind).GroupKind())
	if !ok {
		return "", fmt.Errorf("owner %s %s of %s %s/%s: the API serves no such kind", o.APIVersion, o.Kind, i.resource.Resource, i.namespace, i.name)
	}
	namespace := ""
	if kind.namespaced {
		if namespace = i.namespace; namespace == "" {
			return solid, nil // not a valid reference: nothing is ever deleted for it
		}
	}
	key := ownerKey{namespace, o.UID}
	if c.knownAbsent(key) {
		return absent, nil
	}
	owner, err := c.client(kind.gvr, namespace).Get(ctx, o.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err), err == nil && owner.UID != o.UID:
		c.rememberAbsent(key)
		return absent, nil
	case err != nil:
		return "", err
	case newItem(kind.gvr, owner).waits:
		return waiting, nil
	}
	return solid, nil
}

func (c *Controller) knownAbsent(key ownerKey) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.absent[key]
	return ok
}

func (c *Controller) rememberAbsent(key ownerKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.absent) >= maxAbsent {
		clear(c.absent)
	}
	c.absent[key] = struct{}{}
}

// do carries out what was decided on one version of an object.
func (c *Controller) do(ctx context.Context, i *item, a action) error {
	switch a.Verb {
	case remove:
		options := metav1.NewPreconditionDeleteOptions(string(i.uid))
		options.Preconditions.ResourceVersion = &i.version
		options.PropagationPolicy = &a.Policy
		return settled(c.client(i.resource, i.namespace).Delete(ctx, i.name, *options))
	case unlink:
		return c.unlink(ctx, i, a.Owners)
	case visitDependents:
		for _, d := range c.graph.dependentsOf(i.uid) {
			c.loop.Add(string(d.uid))
		}
	case orphan:
		return c.orphanDependents(ctx, i)
	case release:
		return c.dropFinalizer(ctx, i, metav1.FinalizerDeleteDependents)
	}
	return nil
}

// settled holds an object that is gone for done; a conflict is tried again.
func settled(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func (c *Controller) unlink(ctx context.Context, i *item, owners []types.UID) error {
	kept := slices.DeleteFunc(slices.Clone(i.owners), func(o metav1.OwnerReference) bool { return slices.Contains(owners, o.UID) })
	return c.patch(ctx, i, "ownerReferences", kept)
}

func (c *Controller) orphanDependents(ctx context.Context, i *item) error {
	var failures []error
	for _, d := range c.graph.dependentsOf(i.uid) {
		current, err := c.client(d.resource, d.namespace).Get(ctx, d.name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) || err == nil && current.UID != d.uid {
			continue
		}
		if err == nil {
			err = c.unlink(ctx, newItem(d.resource, current), []types.UID{i.uid})
		}
		failures = append(failures, err)
	}
	if err := errors.Join(failures...); err != nil {
		return err
	}
	return c.dropFinalizer(ctx, i, metav1.FinalizerOrphanDependents)
}

func (c *Controller) dropFinalizer(ctx context.Context, i *item, finalizer string) error {
	kept := slices.DeleteFunc(slices.Clone(i.finalizers), func(f string) bool { return f == finalizer })
	return c.patch(ctx, i, "finalizers", kept)
}

// patch replaces one list of the metadata of exactly the version that was decided on. A
// merge patch works for every kind, custom ones too.
func (c *Controller) patch(ctx context.Context, i *item, field string, value any) error {
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": i.uid, "resourceVersion": i.version, field: value,
	}})
	if err != nil {
		return err
	}
	_, err = c.client(i.resource, i.namespace).Patch(ctx, i.name, types.MergePatchType, body, metav1.PatchOptions{})
	return settled(err)
}
