// Package pending remembers what a controller has written and its cache may not
// show yet (what upstream calls expectations), so that a pass over a stale cache
// does not create or delete twice.
//
// Created objects are awaited until the cache holds them, or is at, or after, the
// resourceVersion of the answer (they may be gone again by then); updated ones until it holds
// that version. Objects being deleted are awaited by UID. Nothing has to be told of events, so nothing can be miscounted.
// Writes is safe for concurrent use. Only controllers import this package.
package pending

import (
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/client-go/tools/cache"
)

// patience is how long an unseen write holds its key back. It only matters when
// a watch is stuck, and is as long as upstream's.
const patience = 5 * time.Minute

// Writes holds the unseen writes of one controller by key.
type Writes struct {
	mu   sync.Mutex // protects keys
	keys map[string]*writes
}

type writes struct {
	created map[string]string // resourceVersion by namespace/name
	updated map[string]string // likewise
	deleted map[types.UID]struct{}
	last    time.Time
}

// New makes an empty memory.
func New() *Writes { return &Writes{keys: map[string]*writes{}} }

// Created remembers that the object was created, as the API answered it.
func (w *Writes) Created(key string, object metav1.Object, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	name := cache.MetaObjectToName(object).String()
	w.keyLocked(key, now).created[name] = object.GetResourceVersion()
}

// Updated remembers that the object was changed, as the API answered it.
func (w *Writes) Updated(key string, object metav1.Object, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	name := cache.MetaObjectToName(object).String()
	w.keyLocked(key, now).updated[name] = object.GetResourceVersion()
}

// Deleted remembers that deletion of the object was accepted.
func (w *Writes) Deleted(key string, uid types.UID, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.keyLocked(key, now).deleted[uid] = struct{}{}
}

// Forget drops a key whose object is gone.
func (w *Writes) Forget(key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.keys, key)
}

// Settled says whether the cache shows all that was written for the key. living
// says whether the cache holds an object with the UID that is not being deleted.
func (w *Writes) Settled(key string, store cache.Store, living func(types.UID) bool, now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	k, ok := w.keys[key]
	if !ok {
		return true
	}
	for uid := range k.deleted {
		if !living(uid) {
			delete(k.deleted, uid)
		}
	}
	at := store.LastStoreSyncResourceVersion()
	for name, wanted := range k.created {
		if _, shown, err := store.GetByKey(name); err == nil && shown || reached(at, wanted) {
			delete(k.created, name)
		}
	}
	for name, wanted := range k.updated {
		object, shown, err := store.GetByKey(name)
		if err == nil && shown && reached(object.(metav1.Object).GetResourceVersion(), wanted) || reached(at, wanted) {
			delete(k.updated, name)
		}
	}
	if len(k.created)+len(k.updated)+len(k.deleted) == 0 || now.Sub(k.last) > patience {
		delete(w.keys, key)
		return true
	}
	return false
}

func reached(at, wanted string) bool {
	c, err := resourceversion.CompareResourceVersion(at, wanted)
	return err == nil && c >= 0
}

func (w *Writes) keyLocked(key string, now time.Time) *writes {
	k, ok := w.keys[key]
	if !ok {
		k = &writes{created: map[string]string{}, updated: map[string]string{}, deleted: map[types.UID]struct{}{}}
		w.keys[key] = k
	}
	k.last = now
	return k
}
