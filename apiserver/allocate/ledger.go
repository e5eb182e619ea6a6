// Package allocate gives out what exists once in a cluster: cluster IPs and node
// ports. Whatever an object holds is a key in the store, written and removed in
// the transaction that writes the object; for an address the transaction writes the
// IPAddress that shows it as well, and holds only while its ServiceCIDR is in force. So nothing is given to two, from
// however many API servers at once, and a crash leaves nothing behind.
//
// A Ledger and its ranges are safe for use by any number of goroutines. Only
// apiserver and its group packages import this one.
package allocate

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"

	"kontiki/apiserver/storage"
	"kontiki/raftstore"
)

// prefix of all keys, outside of the objects' own.
const prefix = "/kontiki/allocated/"

// addresses is the kind of the keys of addresses.
const addresses = "clusterips"

// entryAttempts bounds how often a transaction is put together anew because an
// IPAddress that it removes was changed meanwhile.
const entryAttempts = 16

// ErrRangeChanged says that the ServiceCIDR of an address has changed, or is in force no
// more, between the choice and the write. Nothing was written.
var ErrRangeChanged = errors.New("the ServiceCIDR of the chosen address was changed meanwhile")

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
type Ledger struct {
	storage.Backend
	own    []netip.Prefix   // the cluster's ranges, the primary one first
	shown  *storage.Objects // IPAddresses
	ranges *storage.Objects // ServiceCIDRs
}

// NewLedger returns the ledger over a store. The ranges are the cluster's own; Bind
// must be called before anything is allocated.
func NewLedger(store storage.Backend, ranges ...netip.Prefix) *Ledger {
	return &Ledger{Backend: store, own: ranges}
}

// Bind tells the ledger how IPAddresses and ServiceCIDRs are stored.
func (l *Ledger) Bind(shown, ranges *storage.Objects) { l.shown, l.ranges = shown, ranges }

// Key names one thing of a kind, as "nodeports" and "30080".
func Key(kind, value string) string { return prefix + kind + "/" + value }

// addressOf is the address that a key stands for.
func addressOf(key string) (netip.Addr, bool) {
	text, ok := strings.CutPrefix(key, Key(addresses, ""))
	if !ok {
		return netip.Addr{}, false
	}
	ip, err := netip.ParseAddr(text)
	return ip, err == nil
}

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

	known := map[string]*raftstore.KV{}
	for range entryAttempts {
		e := l.begin(txn, known)
		for _, key := range take {
			if err := e.take(ctx, owner, key); err != nil {
				return raftstore.TxnResult{}, err
			}
		}
		for _, key := range release {
			e.release(ctx, owner, key)
		}
		result, err := l.Backend.Apply(ctx, e.txn)
		if err != nil {
			return result, err
		}
		if result.Succeeded {
			result.Revisions = result.Revisions[:len(txn.Ops)]
			return result, nil
		}
		current := result.Current
		result.Current = current[:len(txn.Compares)]
		// The object's own compares come first: when they fail, its update loop
		// reads it again, and the claims are made anew.
		if !hold(txn.Compares, result.Current) {
			return result, nil
		}
		if err := e.refusal(current); err != nil {
			return result, err
		}
	}
	return raftstore.TxnResult{}, fmt.Errorf("the IPAddresses of %s are changed all the time, and could not be removed with it", owner)
}

// hold tells whether compares hold of what the store has.
func hold(compares []raftstore.Compare, current []*raftstore.KV) bool {
	for i, want := range compares {
		if !holds(want, current[i]) {
			return false
		}
	}
	return true
}

func holds(want raftstore.Compare, got *raftstore.KV) bool {
	if got == nil {
		return want.ModRevision == 0
	}
	return got.ModRevision == want.ModRevision
}
