package allocate

import (
	"context"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"
)

// Holdings returns the keys of all that an object holds.
type Holdings func(runtime.Object) []string

// Options is a getter whose storages keep the ledger for some resources.
type Options struct {
	generic.RESTOptionsGetter
	Holdings map[schema.GroupResource]Holdings
}

// GetRESTOptions implements generic.RESTOptionsGetter.
func (o Options) GetRESTOptions(resource schema.GroupResource, example runtime.Object) (generic.RESTOptions, error) {
	opts, err := o.RESTOptionsGetter.GetRESTOptions(resource, example)
	holdings, ok := o.Holdings[resource]
	if err != nil || !ok {
		return opts, err
	}
	inner := opts.Decorator
	opts.Decorator = func(config *storagebackend.ConfigForResource, resourcePrefix string, keyFunc func(runtime.Object) (string, error),
		newFunc, newListFunc func() runtime.Object, attrs storage.AttrFunc, trigger storage.IndexerFuncs, indexers *cache.Indexers,
	) (storage.Interface, factory.DestroyFunc, error) {
		s, destroy, err := inner(config, resourcePrefix, keyFunc, newFunc, newListFunc, attrs, trigger, indexers)
		return &claiming{s, holdings}, destroy, err
	}
	return opts, nil
}

// claiming is a storage whose writes carry the claims of their objects.
type claiming struct {
	storage.Interface
	holdings Holdings
}

func begin(ctx context.Context) (context.Context, *claims) {
	c := &claims{}
	return context.WithValue(ctx, claimsKey{}, c), c
}

func ownerOf(obj runtime.Object) string {
	m, err := meta.Accessor(obj)
	if err != nil {
		return ""
	}
	return m.GetNamespace() + "/" + m.GetName()
}

// Create implements storage.Interface.
func (s *claiming) Create(ctx context.Context, key string, obj, out runtime.Object, ttl uint64) error {
	ctx, c := begin(ctx)
	c.set(ownerOf(obj), nil, s.holdings(obj))
	return s.Interface.Create(ctx, key, obj, out, ttl)
}

// GuaranteedUpdate implements storage.Interface.
func (s *claiming) GuaranteedUpdate(ctx context.Context, key string, destination runtime.Object, ignoreNotFound bool,
	preconditions *storage.Preconditions, tryUpdate storage.UpdateFunc, cachedExistingObject runtime.Object,
) error {
	ctx, c := begin(ctx)
	update := func(input runtime.Object, res storage.ResponseMeta) (runtime.Object, *uint64, error) {
		before := s.holdings(input) // tryUpdate may change its input
		out, ttl, err := tryUpdate(input, res)
		if err == nil {
			c.set(ownerOf(out), before, s.holdings(out))
		}
		return out, ttl, err
	}
	return s.Interface.GuaranteedUpdate(ctx, key, destination, ignoreNotFound, preconditions, update, cachedExistingObject)
}

// Delete implements storage.Interface.
func (s *claiming) Delete(ctx context.Context, key string, out runtime.Object, preconditions *storage.Preconditions,
	validateDeletion storage.ValidateObjectFunc, cachedExistingObject runtime.Object, opts storage.DeleteOptions,
) error {
	ctx, c := begin(ctx)
	validate := func(ctx context.Context, obj runtime.Object) error {
		if err := validateDeletion(ctx, obj); err != nil {
			return err
		}
		c.set(ownerOf(obj), s.holdings(obj), nil)
		return nil
	}
	return s.Interface.Delete(ctx, key, out, preconditions, validate, cachedExistingObject, opts)
}
