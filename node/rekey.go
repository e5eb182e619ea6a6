package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apiserver/pkg/storage/value"

	"kontiki/apiserver/storage/encryption"
	"kontiki/pki"
	"kontiki/raftstore"
)

const (
	// encryptedPrefix is where values lie that data keys encrypt: Secrets.
	encryptedPrefix = "/registry/secrets/"
	// rekeyGrace is how long an old key stays open after another has become current:
	// replicas hear of that within milliseconds, and whoever has not is refused.
	rekeyGrace = time.Minute
	// rekeyKeep is how many event ages a closed key is kept after the last value that
	// it encrypted was written anew: events and old revisions still hold such values,
	// and history is dropped in steps, a little later than its age.
	rekeyKeep = 1.5
	// rekeyRetry is the pause between two looks while old keys are there.
	rekeyRetry = 5 * time.Second
	// rekeyWorkers write at once; the store gathers what they write.
	rekeyWorkers = 8
)

// seedDataKeys records the key that the cluster was founded with, once.
func (n *node) seedDataKeys(ctx context.Context, term uint64) error {
	id, sealed := n.charter.trust.FoundingKey()
	if id == "" || currentKey(n.store.View()) != "" {
		return nil
	}
	record, err := json.Marshal(dataKeyRecord{Sealed: sealed})
	if err != nil {
		return err
	}
	_, err = n.store.Apply(ctx, raftstore.Txn{
		Compares: []raftstore.Compare{{Key: currentDataKey}},
		Ops: []raftstore.Op{
			{Kind: raftstore.OpPut, Key: dataKeyPrefix + id, Value: record},
			{Kind: raftstore.OpPut, Key: currentDataKey, Value: []byte(id)},
		},
		Term: term,
	})
	if err != nil {
		return fmt.Errorf("record the cluster's data key: %w", err)
	}
	return nil
}

// rotateDataKey makes a new data key the current one. The leader does the rest.
func rotateDataKey(ctx context.Context, store *raftstore.Store, trust *pki.Trust) (id string, err error) {
	view, err := store.Linearize(ctx)
	if err != nil {
		return "", err
	}
	current, found := view.Get(currentDataKey)
	if !found {
		return "", errors.New("the cluster has no leader yet that has recorded its data key: try again in a moment")
	}
	key, sealed, err := trust.NewDataKey()
	if err != nil {
		return "", err
	}
	record, err := json.Marshal(dataKeyRecord{Sealed: sealed})
	if err != nil {
		return "", err
	}
	result, err := store.Apply(ctx, raftstore.Txn{
		Compares: []raftstore.Compare{{Key: currentDataKey, ModRevision: current.ModRevision}, {Key: dataKeyPrefix + key.ID}},
		Ops: []raftstore.Op{
			{Kind: raftstore.OpPut, Key: dataKeyPrefix + key.ID, Value: record},
			{Kind: raftstore.OpPut, Key: currentDataKey, Value: []byte(key.ID)},
		},
	})
	if err != nil {
		return "", fmt.Errorf("record the new data key: %w", err)
	}
	if !result.Succeeded {
		return "", errors.New("another change of the data key has just begun")
	}
	// Whoever asks this node next how far the change is must not hear of the time before.
	if _, err := store.WaitRevision(ctx, result.Revision); err != nil {
		return "", fmt.Errorf("data key %s is the current one, but this node does not see that yet: %w", key.ID, err)
	}
	return key.ID, nil
}

// rekeyer re-encrypts what old data keys encrypt, and drops these keys. Its state is
// in the store alone, so that another leader goes on where one has stopped.
type rekeyer struct {
	store *raftstore.Store
	keys  *dataKeys
	term  uint64
	grace time.Duration
	keep  time.Duration // how long a key is kept that encrypts nothing any more
	now   func() time.Time
	log   *slog.Logger

	current string // the key that was current when since was set
	since   time.Time
	unused  time.Time // since when old keys are all closed and encrypt nothing; zero: they are not
}

// driveDataKeys is the leader's part in a change of the data key.
func (n *node) driveDataKeys(ctx context.Context, term uint64) error {
	keep := time.Duration(rekeyKeep * float64(max(n.store.EventAge(), 0)))
	r := rekeyer{store: n.store, keys: n.dataKeys, term: term, grace: rekeyGrace, keep: keep, now: time.Now, log: n.log}
	for ctx.Err() == nil {
		view, err := n.store.Linearize(ctx)
		old := 0
		if err == nil {
			old, err = r.step(ctx, view)
		}
		switch {
		case ctx.Err() != nil:
		case err != nil:
			n.problems.report("data-key", fmt.Sprintf("Secrets cannot be encrypted anew with the current data key: %v; it is tried again", err))
			pause(ctx, rekeyRetry)
		case old > 0:
			pause(ctx, rekeyRetry)
		default:
			n.problems.solved("data-key")
			if err := awaitChange(ctx, n.store, currentDataKey, view.Revision()); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// step does what can be done now, and returns how many old keys are left.
//
// What is encrypted with old keys is written anew. Once the grace is over, old keys are
// closed, each by a change of its record: no value can be written with them from that
// revision on, because every such write compares the record. If a view of a later
// revision then holds no value of a closed key, there will never be one. The key goes once
// the store's history has forgotten those that there were: watches may begin in it.
func (r *rekeyer) step(ctx context.Context, view raftstore.View) (left int, err error) {
	current := currentKey(view)
	old, err := oldKeys(view, current)
	if err != nil || len(old) == 0 {
		return 0, err
	}
	if r.current != current {
		r.current, r.since, r.unused = current, r.now(), time.Time{}
	}
	stale, err := r.reencrypt(ctx, view, current)
	if err != nil {
		return len(old), err
	}
	if r.now().Sub(r.since) < r.grace {
		return len(old), nil
	}
	var open, closed []string
	for _, id := range slices.Sorted(maps.Keys(old)) {
		if old[id].Closed {
			closed = append(closed, id)
		} else {
			open = append(open, id)
		}
	}
	if len(open) > 0 {
		return len(old), r.close(ctx, view, open, old)
	}
	if stale > 0 {
		return len(old), nil // look again
	}
	if r.unused.IsZero() {
		r.unused = r.now()
	}
	if r.now().Sub(r.unused) < r.keep {
		return len(old), nil
	}
	if err := r.drop(ctx, view, closed); err != nil {
		return len(old), err
	}
	r.unused = time.Time{}
	r.log.Info("old data keys are dropped: nothing is encrypted with them", "keys", closed, "current", current)
	return 0, nil
}

// oldKeys are the records of all keys but the current one.
func oldKeys(view raftstore.View, current string) (map[string]dataKeyRecord, error) {
	old := map[string]dataKeyRecord{}
	for _, id := range keyIDs(view) {
		record, _, err := dataKeyIn(view, id)
		if err != nil {
			return nil, err
		}
		if id != current {
			old[id] = record
		}
	}
	return old, nil
}

func keyIDs(view raftstore.View) (ids []string) {
	view.Range(dataKeyPrefix, prefixEnd(dataKeyPrefix), 0, func(kv raftstore.KV) bool {
		ids = append(ids, kv.Key[len(dataKeyPrefix):])
		return true
	})
	return ids
}

// reencrypt writes every value anew that the current key does not encrypt, and returns
// how many there were. One that changes meanwhile is left to the next look.
func (r *rekeyer) reencrypt(ctx context.Context, view raftstore.View, current string) (stale int, err error) {
	transformer := encryption.New(r.keys)
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(rekeyWorkers)
	view.Range(encryptedPrefix, prefixEnd(encryptedPrefix), 0, func(kv raftstore.KV) bool {
		id, encrypted := encryption.KeyID(kv.Value)
		if !encrypted || id == current {
			return true
		}
		stale++
		work.Go(func() error { return r.rewrite(ctx, transformer, kv) })
		return ctx.Err() == nil
	})
	return stale, work.Wait()
}

func (r *rekeyer) rewrite(ctx context.Context, transformer value.Transformer, kv raftstore.KV) error {
	place := value.DefaultContext(kv.Key)
	plain, _, err := transformer.TransformFromStorage(ctx, kv.Value, place)
	if err != nil {
		return fmt.Errorf("%s: %w", kv.Key, err)
	}
	sealed, err := transformer.TransformToStorage(ctx, plain, place)
	if err != nil {
		return fmt.Errorf("%s: %w", kv.Key, err)
	}
	_, err = keyGuard{r.store}.Apply(ctx, raftstore.Txn{
		Compares: []raftstore.Compare{{Key: kv.Key, ModRevision: kv.ModRevision}},
		Ops:      []raftstore.Op{{Kind: raftstore.OpPut, Key: kv.Key, Value: sealed}},
		Term:     r.term,
	})
	if err != nil {
		return fmt.Errorf("%s: %w", kv.Key, err)
	}
	return nil
}

// close lets no more values be encrypted with keys.
func (r *rekeyer) close(ctx context.Context, view raftstore.View, ids []string, records map[string]dataKeyRecord) error {
	txn := raftstore.Txn{Compares: []raftstore.Compare{compareNow(view, currentDataKey)}, Term: r.term}
	for _, id := range ids {
		record := records[id]
		record.Closed = true
		data, err := json.Marshal(record)
		if err != nil {
			return err
		}
		txn.Compares = append(txn.Compares, compareNow(view, dataKeyPrefix+id))
		txn.Ops = append(txn.Ops, raftstore.Op{Kind: raftstore.OpPut, Key: dataKeyPrefix + id, Value: data})
	}
	_, err := r.store.Apply(ctx, txn) // if others were faster, the next look sees it
	return err
}

// drop deletes keys, the founding one also from the record of the cluster's trust.
func (r *rekeyer) drop(ctx context.Context, view raftstore.View, ids []string) error {
	txn := raftstore.Txn{Term: r.term}
	for _, id := range ids {
		txn.Compares = append(txn.Compares, compareNow(view, dataKeyPrefix+id))
		txn.Ops = append(txn.Ops, raftstore.Op{Kind: raftstore.OpDelete, Key: dataKeyPrefix + id})
	}
	if founding, _ := r.keys.trust.FoundingKey(); slices.Contains(ids, founding) {
		sealed, err := r.keys.trust.WithoutFoundingKey().Sealed()
		if err != nil {
			return err
		}
		txn.Ops = append(txn.Ops, raftstore.Op{Kind: raftstore.OpPut, Key: trustKey, Value: sealed})
	}
	result, err := r.store.Apply(ctx, txn)
	if err == nil && !result.Succeeded {
		err = errors.New("the records of old data keys have changed")
	}
	return err
}

func compareNow(view raftstore.View, key string) raftstore.Compare {
	kv, _ := view.Get(key)
	return raftstore.Compare{Key: key, ModRevision: kv.ModRevision}
}

// forgetFoundingKey takes the key that the cluster was founded with out of this
// node's files, once the cluster has dropped it.
func (n *node) forgetFoundingKey(ctx context.Context) error {
	id, _ := n.charter.trust.FoundingKey()
	for id != "" {
		view := n.store.View()
		if _, kept := view.Get(dataKeyPrefix + id); !kept && currentKey(view) != "" {
			if err := n.charter.trust.WithoutFoundingKey().Write(n.cfg.DataDir); err != nil {
				return fmt.Errorf("forget the data key %s: %w", id, err)
			}
			break
		}
		if err := awaitChange(ctx, n.store, dataKeyPrefix+id, view.Revision()); err != nil || ctx.Err() != nil {
			return err
		}
	}
	<-ctx.Done()
	return nil
}

// DataKeys tells which data keys there are: the one that encrypts Secrets, and those
// that some may still be encrypted with.
type DataKeys struct {
	Current string   `json:"current"`
	Old     []string `json:"old,omitempty"`
}

func dataKeysIn(view raftstore.View) *DataKeys {
	current := currentKey(view)
	if current == "" {
		return nil
	}
	old := slices.DeleteFunc(keyIDs(view), func(id string) bool { return id == current })
	return &DataKeys{Current: current, Old: old}
}
