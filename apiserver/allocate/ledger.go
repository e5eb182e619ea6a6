// Package allocate gives out what exists once in a cluster: cluster IPs and node
// ports. Whatever an object holds is a key in the store, written and removed in
// the transaction that writes the object. So nothing is given to two, from
// however many API servers at once, and a crash leaves nothing behind.
//
// A Ledger and its ranges are safe for use by any number of goroutines. Only
// apiserver and its group packages import this one.
package allocate

import (
	"context"
	"fmt"
	"sync"

	"kontiki/apiserver/storage"
	"kontiki/raftstore"
)

// prefix of all keys, outside of the objects' own.
const prefix = "/kontiki/allocated/"

// TakenError says that another object has got what this one asked for, between
// the choice and the write. Nothing was written.
type TakenError struct {
	Key   string // what was asked for, as Key returns it
	Owner string // namespace/name of the object that holds it
}

// Error implements error.
func (e *TakenError) Error() string {
	return fmt.Sprintf("%s is already allocated to %s", e.Key[len(prefix):], e.Owner)
}

// Ledger is a store whose transactions carry the claims of the objects they
// write. It stands between storage and the replicated store.
type Ledger struct{ storage.Backend }

// NewLedger returns the ledger over a store.
func NewLedger(store storage.Backend) *Ledger { return &Ledger{store} }

// Key names one thing of a kind, as "clusterips" and "10.43.0.1".
func Key(kind, value string) string { return prefix + kind + "/" + value }

// Owner returns who holds key in this node's replica.
func (l *Ledger) Owner(key string) (string, bool) {
	kv, ok := l.View().Get(key)
	return string(kv.Value), ok
}

// Refresh returns once this node's replica holds every allocation that was
// acknowledged before the call.
func (l *Ledger) Refresh(ctx context.Context) error {
	_, err := l.Linearize(ctx)
	return err
}

// claims are what the next write of one object takes and gives back.
type claims struct {
	mu      sync.Mutex // the update loop and the transaction may be different goroutines
	owner   string
	take    []string
	release []string
}

func (c *claims) set(owner string, before, after []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.owner, c.take, c.release = owner, without(after, before), without(before, after)
}

func without(keys, others []string) []string {
	seen := map[string]bool{}
	for _, k := range others {
		seen[k] = true
	}
	var out []string
	for _, k := range keys {
		if !seen[k] {
			seen[k] = true
			out = append(out, k)
		}
	}
	return out
}

type claimsKey struct{}

// Apply implements storage.Backend.
func (l *Ledger) Apply(ctx context.Context, txn raftstore.Txn) (raftstore.TxnResult, error) {
	c, ok := ctx.Value(claimsKey{}).(*claims)
	if !ok {
		return l.Backend.Apply(ctx, txn)
	}
	c.mu.Lock()
	owner, take, release := c.owner, c.take, c.release
	c.mu.Unlock()

	compares, ops := len(txn.Compares), len(txn.Ops)
	txn.Compares, txn.Ops = txn.Compares[:compares:compares], txn.Ops[:ops:ops]
	for _, key := range take {
		txn.Compares = append(txn.Compares, raftstore.Compare{Key: key})
		txn.Ops = append(txn.Ops, raftstore.Op{Kind: raftstore.OpPut, Key: key, Value: []byte(owner)})
	}
	for _, key := range release {
		txn.Ops = append(txn.Ops, raftstore.Op{Kind: raftstore.OpDelete, Key: key})
	}
	result, err := l.Backend.Apply(ctx, txn)
	if err != nil {
		return result, err
	}
	if result.Succeeded {
		result.Revisions = result.Revisions[:ops]
		return result, nil
	}
	// The object's own compares come first: when they fail, its update loop
	// reads it again, and the claims are made anew.
	for i, want := range txn.Compares[:compares] {
		if got := result.Current[i]; (got == nil) != (want.ModRevision == 0) || (got != nil && got.ModRevision != want.ModRevision) {
			result.Current = result.Current[:compares]
			return result, nil
		}
	}
	for i, key := range take {
		if holder := result.Current[compares+i]; holder != nil {
			return result, &TakenError{Key: key, Owner: string(holder.Value)}
		}
	}
	result.Current = result.Current[:compares]
	return result, nil
}
