package allocate

import (
	"context"

	"kontiki/raftstore"
)

// entry is an object's transaction with what the object takes and gives back.
type entry struct {
	ledger *Ledger
	view   raftstore.View
	known  map[string]*raftstore.KV // newer than view
	txn    raftstore.Txn
	own    int // how many compares are the object's
	// checks say of each further compare what it means when it does not hold; nil means
	// that the transaction is put together anew.
	checks []func(got *raftstore.KV) error
}

func (l *Ledger) begin(txn raftstore.Txn, known map[string]*raftstore.KV) *entry {
	e := &entry{ledger: l, view: l.View(), known: known, txn: txn, own: len(txn.Compares)}
	e.txn.Compares, e.txn.Ops = txn.Compares[:len(txn.Compares):len(txn.Compares)], txn.Ops[:len(txn.Ops):len(txn.Ops)]
	return e
}

func (e *entry) compare(key string, revision uint64, check func(*raftstore.KV) error) {
	e.txn.Compares = append(e.txn.Compares, raftstore.Compare{Key: key, ModRevision: revision})
	e.checks = append(e.checks, check)
}

// get returns what is known of a key: nil for none.
func (e *entry) get(key string) *raftstore.KV {
	if kv, ok := e.known[key]; ok {
		return kv
	}
	if kv, ok := e.view.Get(key); ok {
		return &kv
	}
	return nil
}

func (e *entry) take(ctx context.Context, owner, key string) error {
	e.compare(key, 0, func(holder *raftstore.KV) error { return &TakenError{Key: key, Owner: string(holder.Value)} })
	e.txn.Ops = append(e.txn.Ops, raftstore.Op{Kind: raftstore.OpPut, Key: key, Value: []byte(owner)})
	ip, ok := addressOf(key)
	if !ok {
		return nil
	}
	from, ok := e.ledger.sourceOf(ctx, e.view, ip)
	if !ok {
		return ErrRangeChanged
	}
	e.compare(from.key, from.revision, func(*raftstore.KV) error { return ErrRangeChanged })
	put, err := e.ledger.shown.Put(ctx, ip.String(), newIPAddress(ip, owner))
	if err != nil {
		return err
	}
	e.compare(put.Key, 0, func(*raftstore.KV) error { return &TakenError{Key: key, Owner: "IPAddress " + ip.String()} })
	e.txn.Ops = append(e.txn.Ops, put)
	return nil
}

// release gives key back. The IPAddress of it goes too, if it is the owner's; one with
// finalizers is left to who collects those without an owner.
func (e *entry) release(ctx context.Context, owner, key string) {
	e.txn.Ops = append(e.txn.Ops, raftstore.Op{Kind: raftstore.OpDelete, Key: key})
	ip, ok := addressOf(key)
	if !ok {
		return
	}
	shown := e.ledger.shown.Key(ip.String())
	kv := e.get(shown)
	if kv == nil {
		e.compare(shown, 0, nil)
		return
	}
	e.compare(shown, kv.ModRevision, nil)
	if e.ledger.goesWith(ctx, *kv, owner) {
		e.txn.Ops = append(e.txn.Ops, raftstore.Op{Kind: raftstore.OpDelete, Key: shown})
	}
}

// refusal returns what the compares that did not hold mean. Without an error, known
// has what the next attempt needs.
func (e *entry) refusal(current []*raftstore.KV) error {
	for i, check := range e.checks {
		want, got := e.txn.Compares[e.own+i], current[e.own+i]
		switch {
		case holds(want, got):
		case check == nil:
			e.known[want.Key] = got
		default:
			return check(got)
		}
	}
	return nil
}
