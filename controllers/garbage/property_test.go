package garbage

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"kontiki/controllers/plantest"
)

// TestNothingOwnedIsCollected makes, changes and deletes objects that own each other, in circles too,
// and collects from a graph that is behind, with crashes between any two writes. Nothing goes that
// nobody deleted while one of its owners stays; and left alone, no object is left whose owners
// have all gone, none names one that is gone, and nothing waits for ever.
func TestNothingOwnedIsCollected(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{t: t, objects: map[types.UID]*metav1.PartialObjectMetadata{}}
		m.seen.Happened(m.objects)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			uid := m.pick()
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0, 1, 2:
				m.create()
			case 3:
				m.own(uid)
			case 4, 5:
				m.delete(uid, rapid.SampledFrom([]metav1.DeletionPropagation{metav1.DeletePropagationForeground, metav1.DeletePropagationBackground, metav1.DeletePropagationOrphan}).Draw(t, "how"))
			default:
				m.act(uid, rapid.IntRange(0, 4).Draw(t, "behind"), &plantest.Crash{After: rapid.IntRange(0, 3).Draw(t, "writes")})
			}
		}
		m.settle()
	})
}

// model is an API with objects of one kind in one namespace, and the collector's graph of it.
type model struct {
	t       *rapid.T
	objects map[types.UID]*metav1.PartialObjectMetadata // replaced, never changed
	seen    plantest.Late[types.UID, *metav1.PartialObjectMetadata]
	version int
}

// put stores a new version of an object; one that is being deleted goes with its last finalizer.
func (m *model) put(o *metav1.PartialObjectMetadata) {
	m.version++
	o.ResourceVersion = strconv.Itoa(m.version)
	m.objects[o.UID] = o
	if o.DeletionTimestamp != nil && len(o.Finalizers) == 0 {
		delete(m.objects, o.UID)
	}
	m.seen.Happened(m.objects)
}

// pick is an object that is, or was, there.
func (m *model) pick() types.UID {
	return types.UID(strconv.Itoa(rapid.IntRange(0, 7).Draw(m.t, "object")))
}

func (m *model) create() {
	uid := m.pick()
	if m.objects[uid] == nil {
		o := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: string(uid), UID: uid}}
		m.refer(o)
		m.put(o)
	}
}

// own has a user name owners anew.
func (m *model) own(uid types.UID) {
	if m.objects[uid] != nil {
		o := m.objects[uid].DeepCopy()
		m.refer(o)
		m.put(o)
	}
}

func (m *model) refer(o *metav1.PartialObjectMetadata) {
	o.OwnerReferences = nil
	for _, uid := range slices.Sorted(maps.Keys(m.objects)) {
		if uid != o.UID && rapid.IntRange(0, 2).Draw(m.t, "owns") == 0 {
			blocks := rapid.Bool().Draw(m.t, "blocks")
			o.OwnerReferences = append(o.OwnerReferences, metav1.OwnerReference{UID: uid, Name: string(uid), BlockOwnerDeletion: &blocks})
		}
	}
}

// delete is the API's: it marks, if the policy has a finalizer for it, or removes.
func (m *model) delete(uid types.UID, how metav1.DeletionPropagation) {
	if m.objects[uid] == nil {
		return
	}
	o := m.objects[uid].DeepCopy()
	if o.DeletionTimestamp == nil {
		o.DeletionTimestamp = &metav1.Time{}
		switch how {
		case metav1.DeletePropagationForeground:
			o.Finalizers = []string{metav1.FinalizerDeleteDependents}
		case metav1.DeletePropagationOrphan:
			o.Finalizers = []string{metav1.FinalizerOrphanDependents}
		}
		m.put(o)
	}
}

// act syncs one object: what is to be done follows from the graph, from the object and its owners
// as the API has them.
func (m *model) act(uid types.UID, behind int, crash *plantest.Crash) (wrote bool) {
	g := newGraph()
	for _, o := range m.seen.Behind(behind) {
		g.set(newItem(podsGVR, o))
	}
	if g.get(uid) == nil || m.objects[uid] == nil {
		return false
	}
	now := newItem(podsGVR, m.objects[uid])
	f := family{deleting: now.deleting, waits: now.waits, orphans: now.orphans, owners: now.owners, finalizers: now.finalizers, states: map[types.UID]ownerState{}}
	f.dependents = g.awaitedBy(uid)
	for _, o := range now.owners {
		switch owner := m.objects[o.UID]; {
		case owner == nil:
			f.states[o.UID] = absent
		case newItem(podsGVR, owner).waits:
			f.states[o.UID] = waiting
		default:
			f.states[o.UID] = solid
		}
	}
	return m.do(now, plan(f), g, crash)
}

func (m *model) do(i *item, a action, g *graph, crash *plantest.Crash) bool {
	o := m.objects[i.uid].DeepCopy()
	drop := func(finalizer string) bool {
		if !crash.Write() {
			return false
		}
		o.Finalizers = slices.DeleteFunc(o.Finalizers, func(f string) bool { return f == finalizer })
		m.put(o)
		return true
	}
	switch a.Verb {
	case remove:
		for _, owner := range o.OwnerReferences {
			if now := m.objects[owner.UID]; now != nil && !newItem(podsGVR, now).waits {
				m.t.Fatalf("%s is collected, and its owner %s stays", o.Name, owner.Name)
			}
		}
		if crash.Write() {
			m.delete(i.uid, a.Policy)
			return true
		}
	case unlink:
		if crash.Write() {
			m.unlink(i.uid, a.Owners...)
			return true
		}
	case orphan:
		for _, d := range g.dependentsOf(i.uid) {
			if !crash.Write() {
				return false
			}
			m.unlink(d.uid, i.uid)
		}
		return drop(metav1.FinalizerOrphanDependents)
	case release:
		return drop(metav1.FinalizerDeleteDependents)
	}
	return false
}

func (m *model) unlink(uid types.UID, owners ...types.UID) {
	if m.objects[uid] == nil {
		return
	}
	o := m.objects[uid].DeepCopy()
	o.OwnerReferences = slices.DeleteFunc(o.OwnerReferences, func(r metav1.OwnerReference) bool { return slices.Contains(owners, r.UID) })
	m.put(o)
}

// settle lets the collector work, with a graph that is up to date, until it has nothing to do.
func (m *model) settle() {
	for pass := 0; ; pass++ {
		wrote := false
		for _, uid := range slices.Sorted(maps.Keys(m.objects)) {
			wrote = m.act(uid, 0, &plantest.Crash{After: 100}) || wrote
		}
		if !wrote {
			break
		}
		if pass > 100 {
			m.t.Fatal("after 100 passes there is still something to write")
		}
	}
	for uid, o := range m.objects {
		if o.DeletionTimestamp != nil {
			m.t.Fatalf("%s waits for ever: %s", uid, fmt.Sprint(o.Finalizers))
		}
		for _, owner := range o.OwnerReferences {
			if m.objects[owner.UID] == nil {
				m.t.Fatalf("%s names %s, which is gone", uid, owner.UID)
			}
		}
	}
}
