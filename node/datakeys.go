package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"kontiki/apiserver/storage/encryption"
	"kontiki/pki"
	"kontiki/raftstore"
)

// Secrets are encrypted with data keys, which lie in the store, each sealed with the
// key-encryption key that every replica has in a file. A key is open (values may be
// encrypted with it), then closed (they may be read), then gone. pki/DESIGN.md tells
// how one follows another.

const (
	dataKeyPrefix  = "/kontiki/data-keys/" // + id: a dataKeyRecord
	currentDataKey = "/kontiki/data-key"   // the id of the key for new values
)

type dataKeyRecord struct {
	Sealed []byte `json:"sealed"`
	Closed bool   `json:"closed,omitempty"`
}

// viewer is a replica.
type viewer interface{ View() raftstore.View }

// dataKeys gives the API the cluster's data keys. It is encryption.Keys, and safe for
// any number of goroutines.
type dataKeys struct {
	trust *pki.Trust
	store viewer

	mu     sync.Mutex                // protects opened
	opened map[string]encryption.Key // by id
}

func newDataKeys(trust *pki.Trust, store viewer) *dataKeys {
	return &dataKeys{trust: trust, store: store, opened: map[string]encryption.Key{}}
}

var errNoDataKey = errors.New("the store does not say which data key encrypts Secrets")

// Current implements encryption.Keys.
func (k *dataKeys) Current(ctx context.Context) (encryption.Key, error) {
	id := currentKey(k.store.View())
	if id == "" { // the first leader has not written its records yet
		if id, _ = k.trust.FoundingKey(); id == "" {
			return encryption.Key{}, errNoDataKey
		}
	}
	return k.ByID(ctx, id)
}

// ByID implements encryption.Keys.
func (k *dataKeys) ByID(_ context.Context, id string) (encryption.Key, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if key, ok := k.opened[id]; ok {
		return key, nil
	}
	founding, sealed := k.trust.FoundingKey()
	if id != founding {
		record, found, err := dataKeyIn(k.store.View(), id)
		if err != nil {
			return encryption.Key{}, err
		}
		if !found {
			return encryption.Key{}, fmt.Errorf("the cluster has no data key %s: it was dropped, or the value is another cluster's", id)
		}
		sealed = record.Sealed
	}
	opened, err := k.trust.OpenDataKey(id, sealed)
	if err != nil {
		return encryption.Key{}, err
	}
	key := encryption.Key{ID: id, Secret: [encryption.KeySize]byte(opened.Key)}
	k.opened[id] = key
	return key, nil
}

func currentKey(view raftstore.View) string {
	kv, _ := view.Get(currentDataKey)
	return string(kv.Value)
}

func dataKeyIn(view raftstore.View, id string) (r dataKeyRecord, found bool, err error) {
	kv, found := view.Get(dataKeyPrefix + id)
	if !found {
		return r, false, nil
	}
	if err := json.Unmarshal(kv.Value, &r); err != nil {
		return r, true, fmt.Errorf("the record of data key %s: %w", id, err)
	}
	return r, true, nil
}

// errKeyClosed is returned for a value whose key was closed while it was on its way.
var errKeyClosed = errors.New("the data key that encrypts Secrets was changed meanwhile: nothing was written, try again")

// keyGuard is the store as the API sees it. It writes no value whose data key is not
// open: the transaction itself compares the key's record, so that not even a node that
// slept for hours can write one that nobody could read later.
type keyGuard struct{ *raftstore.Store }

// Apply implements storage.Backend.
func (g keyGuard) Apply(ctx context.Context, txn raftstore.Txn) (raftstore.TxnResult, error) {
	ids := keysOf(txn.Ops)
	if len(ids) == 0 {
		return g.Store.Apply(ctx, txn)
	}
	view, own := g.View(), len(txn.Compares)
	for try := 0; ; try++ {
		guards, err := guardsOf(view, ids)
		if err != nil {
			return raftstore.TxnResult{}, err
		}
		guarded := txn
		guarded.Compares = append(slices.Clip(txn.Compares), guards...)
		result, err := g.Store.Apply(ctx, guarded)
		if err != nil || result.Succeeded {
			return result, err
		}
		if slices.EqualFunc(guards, result.Current[own:], holds) {
			result.Current = result.Current[:own]
			return result, nil
		}
		if try > 0 {
			return raftstore.TxnResult{}, errKeyClosed
		}
		// This replica was behind. If the key is still open by the latest state, so be it.
		if view, err = g.Linearize(ctx); err != nil {
			return raftstore.TxnResult{}, err
		}
	}
}

func holds(c raftstore.Compare, now *raftstore.KV) bool {
	if now == nil {
		return c.ModRevision == 0
	}
	return c.ModRevision == now.ModRevision
}

// keysOf are the data keys of the values that ops write.
func keysOf(ops []raftstore.Op) (ids []string) {
	for _, op := range ops {
		if op.Kind != raftstore.OpPut {
			continue
		}
		if id, ok := encryption.KeyID(op.Value); ok && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// guardsOf compares that keys are open. Before the first leader has written records,
// there is only the key that the cluster was founded with.
func guardsOf(view raftstore.View, ids []string) (guards []raftstore.Compare, err error) {
	for _, id := range ids {
		kv, found := view.Get(dataKeyPrefix + id)
		if !found && currentKey(view) == "" {
			guards = append(guards, raftstore.Compare{Key: currentDataKey})
			continue
		}
		record, _, err := dataKeyIn(view, id)
		if err != nil {
			return nil, err
		}
		if !found || record.Closed {
			return nil, errKeyClosed
		}
		guards = append(guards, raftstore.Compare{Key: kv.Key, ModRevision: kv.ModRevision})
	}
	return guards, nil
}
