package storage

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"

	"kontiki/raftstore"
)

// Delete implements storage.Interface.
func (s *Storage) Delete(
	ctx context.Context, key string, out runtime.Object, preconditions *storage.Preconditions,
	validateDeletion storage.ValidateObjectFunc, cachedExistingObject runtime.Object, opts storage.DeleteOptions,
) error {
	key, err := s.key(key, false)
	if err != nil {
		return err
	}
	reader, err := s.newStateReader(key, out)
	if err != nil {
		return fmt.Errorf("unable to convert output object to pointer: %w", err)
	}
	reader.expectCorrupt = s.codec.reportCorrupt && opts.ExpectTransformOrDecodeError

	state, err := reader.first(ctx, cachedExistingObject)
	if err != nil {
		return err
	}
	for {
		if err := admitDeletion(ctx, key, state, preconditions, validateDeletion); err != nil {
			if state, err = reader.recheck(ctx, state, err); err != nil {
				return err
			}
			continue
		}
		result, err := s.apply(ctx, raftstore.Txn{
			Compares: []raftstore.Compare{{Key: key, ModRevision: state.revision}},
			Ops:      []raftstore.Op{{Kind: raftstore.OpDelete, Key: key}},
		}, key)
		if err != nil {
			return err
		}
		if result.Succeeded {
			if reader.expectCorrupt {
				return nil
			}
			return s.codec.decodeInto(state.data, out, result.Revisions[0])
		}
		if state, err = reader.currentFrom(ctx, result.Current[0]); err != nil {
			return err
		}
	}
}

func admitDeletion(ctx context.Context, key string, state *objectState, preconditions *storage.Preconditions, validate storage.ValidateObjectFunc) error {
	if preconditions != nil {
		if err := preconditions.Check(key, state.obj); err != nil {
			return err
		}
	}
	return validate(ctx, state.obj)
}
