package storage

import (
	"context"
	"errors"
	"reflect"
	"time"

	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"

	"kontiki/raftstore"
)

// objectState is what is known of the object that an update or delete starts from.
type objectState struct {
	obj      runtime.Object // nil for one that cannot be read, when that was expected
	meta     storage.ResponseMeta
	data     []byte // decrypted
	revision uint64 // mod revision, 0 for no key
	stale    bool   // to be written again even if nothing changed
	// current tells that the state was confirmed by the leader after the call
	// began. Another one is a guess: the transaction's compare keeps a write on
	// it right, but nobody may be refused because of it.
	current bool
}

// stateReader reads the states of one key for one call.
type stateReader struct {
	s              *Storage
	key            string
	typ            reflect.Value // of the caller's output object
	ignoreNotFound bool
	// expectCorrupt is set by the deletion of an object that cannot be read: one
	// that can is then refused.
	expectCorrupt bool
}

// first returns the state to begin with: a guess from the local replica, which
// saves a read-index round for each write, or else the current state. The
// suggestion is used where it is what the replica holds, to save decoding.
func (r *stateReader) first(ctx context.Context, suggestion runtime.Object) (*objectState, error) {
	view := r.s.store.View()
	// A replica that may be damaged is no ground for a guess: a compare by revision would
	// pass once it has refilled, and what was damaged would be written for all.
	if errors.Is(r.s.store.Err(), raftstore.ErrDiffers) {
		return r.current(ctx)
	}
	if kv, ok := view.Get(r.key); ok && !r.expectCorrupt {
		state, err := r.suggested(ctx, kv, suggestion)
		if err != nil {
			return nil, err
		}
		if state == nil {
			state, err = r.state(ctx, &kv)
		}
		if err == nil {
			return state, nil
		}
		// It may be readable by now; the current state's error counts.
	}
	return r.current(ctx)
}

// suggested returns the state of kv with the suggestion as its object, or nil if
// the suggestion is something else.
func (r *stateReader) suggested(ctx context.Context, kv raftstore.KV, suggestion runtime.Object) (*objectState, error) {
	if suggestion == nil {
		return nil, nil
	}
	revision, err := r.s.versioner.ObjectResourceVersion(suggestion)
	if err != nil || revision != kv.ModRevision {
		return nil, nil
	}
	state := newState(kv)
	if state.data, state.stale, err = r.s.codec.open(ctx, kv); err != nil {
		return nil, nil
	}
	state.obj = suggestion
	return state, nil
}

// current returns the state as of now.
func (r *stateReader) current(ctx context.Context) (*objectState, error) {
	view, err := r.s.linearize(ctx, r.key)
	if err != nil {
		return nil, err
	}
	kv, ok := view.Get(r.key)
	if !ok {
		return r.currentFrom(ctx, nil)
	}
	return r.currentFrom(ctx, &kv)
}

// currentFrom returns the state of kv, which the leader has just told; nil for no key.
func (r *stateReader) currentFrom(ctx context.Context, kv *raftstore.KV) (*objectState, error) {
	state, err := r.state(ctx, kv)
	if err != nil {
		return nil, err
	}
	state.current = true
	return state, nil
}

func (r *stateReader) state(ctx context.Context, kv *raftstore.KV) (*objectState, error) {
	into := r.newObject()
	if kv == nil {
		if !r.ignoreNotFound {
			return nil, storage.NewKeyNotFoundError(r.key, 0)
		}
		return &objectState{obj: into}, runtime.SetZeroValue(into)
	}
	state := newState(*kv)
	var err error
	if state.data, state.stale, err = r.s.codec.open(ctx, *kv); err != nil {
		if r.expectCorrupt {
			state.stale = true
			return state, nil
		}
		return nil, storage.NewInternalError(err)
	}
	if err = r.s.codec.decodeInto(state.data, into, kv.ModRevision); err != nil {
		if r.expectCorrupt {
			return state, nil
		}
		return nil, err
	}
	if r.expectCorrupt {
		return nil, storage.NewInvalidObjError(r.key, "unsafe deletion is not allowed because the object is decodable from storage")
	}
	state.obj = into
	return state, nil
}

func (r *stateReader) newObject() runtime.Object {
	if untyped, ok := r.typ.Addr().Interface().(runtime.Unstructured); ok {
		return untyped.NewEmptyInstance()
	}
	return reflect.New(r.typ.Type()).Interface().(runtime.Object)
}

func newState(kv raftstore.KV) *objectState {
	return &objectState{
		revision: kv.ModRevision,
		meta:     storage.ResponseMeta{ResourceVersion: kv.ModRevision, TTL: remainingTTL(kv, time.Now())},
	}
}

// remainingTTL is in whole seconds, 0 for an object that stays for ever and at
// least 1 for one that is about to go. It is rounded down, as the store rounds up
// what it is given: an object that is updated all the time must still expire.
func remainingTTL(kv raftstore.KV, now time.Time) int64 {
	if kv.ExpiresUnix == 0 {
		return 0
	}
	return max(1, int64(time.Unix(kv.ExpiresUnix, 0).Sub(now)/time.Second))
}

// newStateReader checks out, where the object found is finally put.
func (s *Storage) newStateReader(key string, out runtime.Object) (*stateReader, error) {
	typ, err := conversion.EnforcePtr(out)
	if err != nil {
		return nil, err
	}
	return &stateReader{s: s, key: key, typ: typ}, nil
}
