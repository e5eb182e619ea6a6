package garbage

import (
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// item is an object as the graph knows it. It is replaced, never changed.
type item struct {
	resource  schema.GroupVersionResource
	namespace string
	name      string
	uid       types.UID
	version   string // resourceVersion
	owners    []metav1.OwnerReference
	// finalizers decide how the object is deleted.
	finalizers []string
	deleting   bool
	waits      bool // deleting in the foreground: for its dependents to go
	orphans    bool // deleting, and its dependents shall stay
}

func newItem(resource schema.GroupVersionResource, o metav1.Object) *item {
	deleting := o.GetDeletionTimestamp() != nil
	return &item{
		resource: resource, namespace: o.GetNamespace(), name: o.GetName(), uid: o.GetUID(),
		version: o.GetResourceVersion(), owners: o.GetOwnerReferences(), finalizers: o.GetFinalizers(),
		deleting: deleting,
		waits:    deleting && slices.Contains(o.GetFinalizers(), metav1.FinalizerDeleteDependents),
		orphans:  deleting && slices.Contains(o.GetFinalizers(), metav1.FinalizerOrphanDependents),
	}
}

// ownedBy returns the reference to an owner.
func (i *item) ownedBy(owner types.UID) (metav1.OwnerReference, bool) {
	for _, o := range i.owners {
		if o.UID == owner {
			return o, true
		}
	}
	return metav1.OwnerReference{}, false
}

// graph holds who depends on whom. It is safe for concurrent use.
type graph struct {
	mu         sync.Mutex // protects both
	items      map[types.UID]*item
	dependents map[types.UID]map[types.UID]struct{} // also of owners that were never seen
}

func newGraph() *graph {
	return &graph{items: map[types.UID]*item{}, dependents: map[types.UID]map[types.UID]struct{}{}}
}

// stray is an object that names an owner in another namespace, where it is never looked for.
type stray struct {
	dependent *item
	owner     metav1.OwnerReference
}

// set takes an object in, or its new version. strays are what that brought to light.
func (g *graph) set(next *item) (before *item, strays []stray) {
	g.mu.Lock()
	defer g.mu.Unlock()
	before = g.items[next.uid]
	strays = g.straysLocked(before, next)
	g.unlinkLocked(before)
	g.items[next.uid] = next
	for _, owner := range next.owners {
		if g.dependents[owner.UID] == nil {
			g.dependents[owner.UID] = map[types.UID]struct{}{}
		}
		g.dependents[owner.UID][next.uid] = struct{}{}
	}
	return before, strays
}

// straysLocked finds the first owner that the object names from now on, and that is known to be in
// another namespace; of an object that is new, those that named it before it was known.
func (g *graph) straysLocked(before, next *item) (strays []stray) {
	for _, o := range next.owners {
		if before != nil {
			if _, named := before.ownedBy(o.UID); named {
				continue
			}
		}
		if owner := g.items[o.UID]; owner != nil && owner.outOfReach(next) {
			strays = append(strays, stray{next, o})
			break // one is told of, as upstream
		}
	}
	if before != nil {
		return strays
	}
	for uid := range g.dependents[next.uid] {
		if d := g.items[uid]; next.outOfReach(d) {
			o, _ := d.ownedBy(next.uid)
			strays = append(strays, stray{d, o})
		}
	}
	return strays
}

// outOfReach says that an object cannot own the other, which is in another namespace, or in none.
func (i *item) outOfReach(dependent *item) bool {
	return i.namespace != "" && i.namespace != dependent.namespace
}

// remove drops an object and returns it.
func (g *graph) remove(uid types.UID) *item {
	g.mu.Lock()
	defer g.mu.Unlock()
	gone := g.items[uid]
	g.unlinkLocked(gone)
	delete(g.items, uid)
	return gone
}

func (g *graph) unlinkLocked(i *item) {
	if i == nil {
		return
	}
	for _, owner := range i.owners {
		delete(g.dependents[owner.UID], i.uid)
		if len(g.dependents[owner.UID]) == 0 {
			delete(g.dependents, owner.UID)
		}
	}
}

func (g *graph) get(uid types.UID) *item {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.items[uid]
}

func (g *graph) dependentsOf(uid types.UID) []*item {
	g.mu.Lock()
	defer g.mu.Unlock()
	items := make([]*item, 0, len(g.dependents[uid]))
	for dependent := range g.dependents[uid] {
		items = append(items, g.items[dependent])
	}
	return items
}

// awaitedBy is what plan has to know of an object's dependents.
func (g *graph) awaitedBy(uid types.UID) []dependent {
	g.mu.Lock()
	defer g.mu.Unlock()
	var all []dependent
	looked := map[types.UID]bool{}
	for d := range g.dependents[uid] {
		blocks, waits := g.blocksLocked(d, uid), g.items[d].waits
		all = append(all, dependent{blocks: blocks, waits: waits, circle: blocks && waits && g.waitsForLocked(d, uid, looked)})
	}
	return all
}

func (g *graph) blocksLocked(dependent, owner types.UID) bool {
	ref, _ := g.items[dependent].ownedBy(owner)
	return ref.BlockOwnerDeletion != nil && *ref.BlockOwnerDeletion
}

// waitsForLocked tells whether an object that waits does so for another, through others that wait.
// looked are those from which it is known not to be reached.
func (g *graph) waitsForLocked(from, to types.UID, looked map[types.UID]bool) bool {
	if looked[from] {
		return false
	}
	looked[from] = true
	for d := range g.dependents[from] {
		if g.blocksLocked(d, from) && (d == to || g.items[d].waits && g.waitsForLocked(d, to, looked)) {
			return true
		}
	}
	return false
}
