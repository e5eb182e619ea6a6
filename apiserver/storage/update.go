package storage

import (
	"bytes"
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"
)

// GuaranteedUpdate implements storage.Interface. The loop begins on the local
// replica's state without asking a quorum; whatever would refuse the caller is
// checked again on the current state, and a write is guarded by its compare.
func (s *Storage) GuaranteedUpdate(
	ctx context.Context, key string, destination runtime.Object, ignoreNotFound bool,
	preconditions *storage.Preconditions, tryUpdate storage.UpdateFunc, cachedExistingObject runtime.Object,
) error {
	key, err := s.key(key, false)
	if err != nil {
		return err
	}
	reader, err := s.newStateReader(key, destination)
	if err != nil {
		return fmt.Errorf("unable to convert output object to pointer: %w", err)
	}
	reader.ignoreNotFound = ignoreNotFound

	state, err := reader.first(ctx, cachedExistingObject)
	if err != nil {
		return err
	}
	for {
		data, ttl, err := s.tryUpdate(key, state, preconditions, tryUpdate)
		if err != nil {
			if state, err = reader.recheck(ctx, state, err); err != nil {
				return err
			}
			continue
		}
		if !state.stale && bytes.Equal(data, state.data) {
			// Nothing to write, which is only true of the current state.
			if state.current {
				return s.codec.decodeInto(state.data, destination, state.revision)
			}
			guess := state
			if state, err = reader.current(ctx); err != nil {
				return err
			}
			if state.revision == guess.revision && !state.stale {
				return s.codec.decodeInto(state.data, destination, state.revision)
			}
			continue
		}
		sealed, err := s.codec.seal(ctx, key, data)
		if err != nil {
			return storage.NewInternalError(err)
		}
		result, err := s.put(ctx, key, state.revision, sealed, ttl)
		if err != nil {
			return err
		}
		if result.Succeeded {
			if withoutOutcome(ctx) {
				return nil
			}
			return s.codec.decodeInto(data, destination, result.Revisions[0])
		}
		if state, err = reader.currentFrom(ctx, result.Current[0]); err != nil {
			return err
		}
	}
}

// tryUpdate lets the caller change the object of state and encodes the outcome.
func (s *Storage) tryUpdate(key string, state *objectState, preconditions *storage.Preconditions, update storage.UpdateFunc) (data []byte, ttl uint64, err error) {
	if err := preconditions.Check(key, state.obj); err != nil {
		return nil, 0, err
	}
	updated, newTTL, err := update(state.obj, state.meta)
	if err != nil {
		return nil, 0, err
	}
	if err := s.versioner.PrepareObjectForStorage(updated); err != nil {
		return nil, 0, fmt.Errorf("PrepareObjectForStorage failed: %w", err)
	}
	ttl = uint64(state.meta.TTL) // no word about it keeps what there was
	if newTTL != nil {
		ttl = *newTTL
	}
	data, err = s.codec.encode(updated)
	return data, ttl, err
}

// recheck is called with a refusal that the caller would get on state. It returns
// the state to try again with, or the refusal if that was on the current state.
func (r *stateReader) recheck(ctx context.Context, state *objectState, refusal error) (*objectState, error) {
	if state.current {
		return nil, refusal
	}
	guessed := state.revision
	state, err := r.current(ctx)
	if err != nil {
		return nil, err
	}
	if state.revision == guessed {
		return nil, refusal
	}
	return state, nil
}

type outcomeKey struct{}

// WithoutOutcome returns a context for updates whose destination nobody looks at: it is
// not filled with what was written.
func WithoutOutcome(ctx context.Context) context.Context {
	return context.WithValue(ctx, outcomeKey{}, true)
}

func withoutOutcome(ctx context.Context) bool {
	without, _ := ctx.Value(outcomeKey{}).(bool)
	return without
}
