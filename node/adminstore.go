package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"kontiki/raftstore"
)

// StoreQuery is the body of a request to /store/ACTION. Fields that an action has
// no use for are ignored.
type StoreQuery struct {
	Key    string        `json:"key,omitempty"` // of get, put, delete
	Value  []byte        `json:"value,omitempty"`
	TTL    time.Duration `json:"ttl,omitempty"`
	Prefix string        `json:"prefix,omitempty"` // of list, watch
	Limit  int           `json:"limit,omitempty"`
	After  uint64        `json:"after,omitempty"` // revision; 0 watches from now
	Local  bool          `json:"local,omitempty"` // what this replica knows, without a quorum
}

// StoreKV is a key as the store holds it. A watch answers one a line.
type StoreKV struct {
	Key            string `json:"key"`
	Value          []byte `json:"value,omitempty"`
	CreateRevision uint64 `json:"createRevision,omitempty"`
	ModRevision    uint64 `json:"modRevision"`
	Version        uint64 `json:"version,omitempty"`
	Deleted        bool   `json:"deleted,omitempty"`
}

// StoreAnswer is what a get or list found, and what a put or delete did, at Revision.
type StoreAnswer struct {
	Revision uint64    `json:"revision"`
	KVs      []StoreKV `json:"kvs"`
}

func storeKV(kv raftstore.KV) StoreKV {
	return StoreKV{Key: kv.Key, Value: kv.Value, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision, Version: kv.Version}
}

var (
	errNoKey    = errors.New("a key is needed")
	errNotFound = errors.New("the store holds no such key")
)

func (n *node) adminStore(mux *http.ServeMux) {
	for action, act := range map[string]func(context.Context, StoreQuery) (StoreAnswer, error){
		"get": n.storeGet, "list": n.storeList, "put": n.storePut, "delete": n.storeDelete,
	} {
		mux.HandleFunc("POST /store/"+action, func(w http.ResponseWriter, r *http.Request) {
			var q StoreQuery
			if !n.question(w, r, &q) {
				return
			}
			ctx, cancel := context.WithTimeout(r.Context(), adminTimeout)
			defer cancel()
			out, err := act(ctx, q)
			answer(w, out, err)
		})
	}
	mux.HandleFunc("POST /store/watch", func(w http.ResponseWriter, r *http.Request) {
		var q StoreQuery
		if n.question(w, r, &q) {
			n.storeWatch(w, r, q)
		}
	})
}

func (n *node) storeView(ctx context.Context, q StoreQuery) (raftstore.View, error) {
	if q.Local {
		return n.store.View(), nil
	}
	view, err := n.store.Linearize(ctx)
	if errors.Is(err, raftstore.ErrNoQuorum) {
		err = fmt.Errorf("%w; --local shows what this node knows", err)
	}
	return view, err
}

func (n *node) storeGet(ctx context.Context, q StoreQuery) (StoreAnswer, error) {
	view, err := n.storeView(ctx, q)
	if err != nil {
		return StoreAnswer{}, err
	}
	kv, found := view.Get(q.Key)
	if !found {
		return StoreAnswer{}, errNotFound
	}
	return StoreAnswer{view.Revision(), []StoreKV{storeKV(kv)}}, nil
}

func (n *node) storeList(ctx context.Context, q StoreQuery) (StoreAnswer, error) {
	view, err := n.storeView(ctx, q)
	if err != nil {
		return StoreAnswer{}, err
	}
	out := StoreAnswer{Revision: view.Revision(), KVs: []StoreKV{}}
	seen := 0
	view.Range(q.Prefix, "", 0, func(kv raftstore.KV) bool {
		if !strings.HasPrefix(kv.Key, q.Prefix) || q.Limit > 0 && seen == q.Limit {
			return false
		}
		seen++
		out.KVs = append(out.KVs, storeKV(kv))
		return true
	})
	return out, nil
}

func (n *node) storePut(ctx context.Context, q StoreQuery) (StoreAnswer, error) {
	return n.storeApply(ctx, raftstore.Op{Kind: raftstore.OpPut, Key: q.Key, Value: q.Value, TTL: q.TTL})
}

func (n *node) storeDelete(ctx context.Context, q StoreQuery) (StoreAnswer, error) {
	out, err := n.storeApply(ctx, raftstore.Op{Kind: raftstore.OpDelete, Key: q.Key})
	if err == nil && out.KVs[0].ModRevision == 0 {
		err = errNotFound
	}
	return out, err
}

func (n *node) storeApply(ctx context.Context, op raftstore.Op) (StoreAnswer, error) {
	if op.Key == "" {
		return StoreAnswer{}, errNoKey
	}
	res, err := n.store.Apply(ctx, raftstore.Txn{Ops: []raftstore.Op{op}})
	if err != nil {
		return StoreAnswer{}, err
	}
	return StoreAnswer{res.Revision, []StoreKV{{Key: op.Key, ModRevision: res.Revisions[0], Deleted: op.Kind == raftstore.OpDelete}}}, nil
}

// storeWatch streams changes until the client goes away or the node stops.
func (n *node) storeWatch(w http.ResponseWriter, r *http.Request, q StoreQuery) {
	if q.After == 0 {
		q.After = n.store.View().Revision()
	}
	watch, err := n.store.Watch(q.Prefix, q.After)
	if err != nil {
		answer(w, nil, err)
		return
	}
	defer watch.Close()
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	enc, flush := json.NewEncoder(w), http.NewResponseController(w)
	if flush.Flush() != nil {
		return
	}
	for {
		events, _, err := watch.Next(r.Context())
		if err != nil {
			if r.Context().Err() == nil {
				enc.Encode(AdminError{err.Error()})
			}
			return
		}
		for _, e := range events {
			kv := storeKV(e.KV)
			kv.Deleted = e.Deleted
			if enc.Encode(kv) != nil {
				return
			}
		}
		if len(events) > 0 && flush.Flush() != nil {
			return
		}
	}
}
