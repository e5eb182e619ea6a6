package storage

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/value"

	"kontiki/raftstore"
)

// objectCodec turns objects into stored values and back: encoding, then
// encryption bound to the key.
type objectCodec struct {
	codec       runtime.Codec
	transformer value.Transformer
	versioner   storage.Versioner
	// reportCorrupt marks errors of values that cannot be read as *corruptObject,
	// so that such objects can be listed and deleted (AllowUnsafeMalformedObjectDeletion).
	reportCorrupt bool
}

func (c *objectCodec) encode(obj runtime.Object) ([]byte, error) {
	return runtime.Encode(c.codec, obj)
}

func (c *objectCodec) seal(ctx context.Context, key string, data []byte) ([]byte, error) {
	return c.transformer.TransformToStorage(ctx, data, value.DefaultContext(key))
}

// open decrypts kv's value. stale tells that it should be written again, since
// the key that encrypted it is on its way out.
func (c *objectCodec) open(ctx context.Context, kv raftstore.KV) (data []byte, stale bool, err error) {
	data, stale, err = c.transformer.TransformFromStorage(ctx, kv.Value, value.DefaultContext(kv.Key))
	if err != nil && c.reportCorrupt {
		err = markCorrupt("data from the storage is not transformable", kv.ModRevision, err)
	}
	return data, stale, err
}

// decodeInto fills out, a pointer, with the object that data encodes.
func (c *objectCodec) decodeInto(data []byte, out runtime.Object, revision uint64) error {
	if _, err := conversion.EnforcePtr(out); err != nil {
		return fmt.Errorf("unable to convert output object to pointer: %w", err)
	}
	_, err := c.decode(data, out, revision)
	return err
}

// decode fills into, which may be nil, and returns the object.
func (c *objectCodec) decode(data []byte, into runtime.Object, revision uint64) (runtime.Object, error) {
	obj, _, err := c.codec.Decode(data, nil, into)
	if err != nil {
		if c.reportCorrupt {
			err = markCorrupt("object not decodable", revision, err)
		}
		return nil, err
	}
	clearTypeMeta(obj)
	if err := c.versioner.UpdateObject(obj, revision); err != nil {
		return nil, fmt.Errorf("failed to set the resource version of %T: %w", obj, err)
	}
	return obj, nil
}

// clearTypeMeta takes kind and apiVersion off typed objects. Where a kind's type
// in memory is the stored one, decoding leaves them, and then items of a list
// would be shown with them, unlike upstream's. Untyped objects live by them.
func clearTypeMeta(obj runtime.Object) {
	if _, untyped := obj.(runtime.Unstructured); !untyped {
		obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	}
}

// object decrypts and decodes kv as a new object that carries revision.
func (c *objectCodec) object(ctx context.Context, kv raftstore.KV, revision uint64) (runtime.Object, error) {
	data, _, err := c.open(ctx, kv)
	if err != nil {
		return nil, err
	}
	return c.decode(data, nil, revision)
}
