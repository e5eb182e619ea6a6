package storage

import (
	"context"
	"fmt"
	"path"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/value/encrypt/identity"

	"kontiki/raftstore"
)

// Objects reads and writes the stored form of a resource's objects, which are in no
// namespace, for who puts them into the transactions of other objects.
type Objects struct {
	prefix string // ends with "/"
	codec  objectCodec
}

// NewObjects returns the objects of the resource that opts are the options of.
func NewObjects(opts generic.RESTOptions) *Objects {
	config := opts.StorageConfig
	o := &Objects{
		prefix: path.Join("/", config.Prefix, opts.ResourcePrefix) + "/",
		codec:  objectCodec{codec: config.Codec, transformer: config.Transformer, versioner: storage.APIObjectVersioner{}},
	}
	if o.codec.transformer == nil {
		o.codec.transformer = identity.NewEncryptCheckTransformer()
	}
	return o
}

// Key is where the object called name lies.
func (o *Objects) Key(name string) string { return o.prefix + name }

// Put returns the write of obj as the object called name.
func (o *Objects) Put(ctx context.Context, name string, obj runtime.Object) (raftstore.Op, error) {
	data, err := o.codec.encode(obj)
	if err != nil {
		return raftstore.Op{}, fmt.Errorf("encode %s: %w", o.Key(name), err)
	}
	sealed, err := o.codec.seal(ctx, o.Key(name), data)
	if err != nil {
		return raftstore.Op{}, fmt.Errorf("seal %s: %w", o.Key(name), err)
	}
	return raftstore.Op{Kind: raftstore.OpPut, Key: o.Key(name), Value: sealed}, nil
}

// Object returns what kv holds.
func (o *Objects) Object(ctx context.Context, kv raftstore.KV) (runtime.Object, error) {
	obj, err := o.codec.object(ctx, kv, kv.ModRevision)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", kv.Key, err)
	}
	return obj, nil
}

// Each calls fn for each of the objects in view, in the order of their names, until
// fn returns false.
func (o *Objects) Each(view raftstore.View, fn func(raftstore.KV) bool) {
	view.Range(o.prefix, prefixEnd(o.prefix), 0, fn)
}
