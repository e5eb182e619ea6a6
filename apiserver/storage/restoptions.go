package storage

import (
	"errors"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/apiserver/pkg/storage/value"
	"k8s.io/client-go/tools/cache"
)

const (
	// DefaultPrefix is where objects lie in the store; upstream's, so that who
	// knows etcd's layout knows this one.
	DefaultPrefix = "/registry"

	// defaultDeleteCollectionWorkers is how many deletes of one collection are in
	// flight: the store gathers concurrent writes into one log entry.
	defaultDeleteCollectionWorkers = 8
)

// RESTOptionsConfig says how the resources of an API server are stored.
type RESTOptionsConfig struct {
	Store Backend

	// Prefix of all keys; DefaultPrefix when empty.
	Prefix string

	// Serializer is the codec factory of the scheme and Encoding says which
	// versions objects have on disk and in memory. Both may be nil where only
	// custom resources are stored.
	Serializer runtime.StorageSerializer
	Encoding   serverstorage.ResourceEncodingConfig

	// MediaType objects are stored in, protobuf when empty. MediaTypes overrides
	// it for kinds that have no protobuf (APIService: application/json).
	MediaType  string
	MediaTypes map[schema.GroupResource]string

	// Cohabitants maps a resource to the one whose keys and stored version it
	// shares, as events.k8s.io/events to core events.
	Cohabitants map[schema.GroupResource]schema.GroupResource

	// Transformers encrypt what they hold a resource for; others are stored plain.
	Transformers map[schema.GroupResource]value.Transformer

	// DeleteCollectionWorkers is the concurrency of a collection's delete; 8 when 0.
	DeleteCollectionWorkers int
}

// RESTOptions is the generic.RESTOptionsGetter that puts registry stores on
// raftstore: no etcd client is opened and no watch cache is built.
type RESTOptions struct {
	cfg RESTOptionsConfig
}

var _ generic.RESTOptionsGetter = (*RESTOptions)(nil)

// NewRESTOptions checks cfg and fills its defaults.
func NewRESTOptions(cfg RESTOptionsConfig) (*RESTOptions, error) {
	if cfg.Store == nil {
		return nil, errors.New("storage: RESTOptionsConfig.Store is missing")
	}
	if (cfg.Serializer == nil) != (cfg.Encoding == nil) {
		return nil, errors.New("storage: RESTOptionsConfig needs both Serializer and Encoding, or neither")
	}
	if cfg.Prefix == "" {
		cfg.Prefix = DefaultPrefix
	}
	if cfg.MediaType == "" {
		cfg.MediaType = runtime.ContentTypeProtobuf
	}
	if cfg.DeleteCollectionWorkers == 0 {
		cfg.DeleteCollectionWorkers = defaultDeleteCollectionWorkers
	}
	return &RESTOptions{cfg: cfg}, nil
}

// GetRESTOptions implements generic.RESTOptionsGetter.
func (o *RESTOptions) GetRESTOptions(resource schema.GroupResource, example runtime.Object) (generic.RESTOptions, error) {
	if o.cfg.Serializer == nil {
		return generic.RESTOptions{}, fmt.Errorf("storage: %s has no codec: RESTOptionsConfig.Serializer is missing", resource)
	}
	stored := resource
	if with, ok := o.cfg.Cohabitants[resource]; ok {
		stored = with
	}
	codec, versioner, err := o.codec(resource, stored, example)
	if err != nil {
		return generic.RESTOptions{}, fmt.Errorf("storage: codec of %s: %w", resource, err)
	}
	return o.options(resource, stored, codec, versioner), nil
}

// CustomResources returns the getter for kinds that are known only as
// CustomResourceDefinitions: they are stored as JSON. The handler of
// apiextensions wraps it with the conversion of the kind.
func (o *RESTOptions) CustomResources() generic.RESTOptionsGetter {
	return customResources{o}
}

type customResources struct{ *RESTOptions }

// GetRESTOptions implements generic.RESTOptionsGetter.
func (o customResources) GetRESTOptions(resource schema.GroupResource, _ runtime.Object) (generic.RESTOptions, error) {
	return o.options(resource, resource, unstructured.UnstructuredJSONScheme, nil), nil
}

func (o *RESTOptions) codec(resource, stored schema.GroupResource, example runtime.Object) (runtime.Codec, runtime.GroupVersioner, error) {
	storageVersion, err := o.storageVersion(stored, example)
	if err != nil {
		return nil, nil, err
	}
	memoryVersion, err := o.cfg.Encoding.InMemoryEncodingFor(resource)
	if err != nil {
		return nil, nil, err
	}
	mediaType := o.cfg.MediaType
	if own, ok := o.cfg.MediaTypes[resource]; ok {
		mediaType = own
	}
	return serverstorage.NewStorageCodec(serverstorage.StorageCodecConfig{
		StorageMediaType:  mediaType,
		StorageSerializer: o.cfg.Serializer,
		StorageVersion:    storageVersion,
		MemoryVersion:     memoryVersion,
	})
}

// storageVersion prefers the version that an older member of the cluster reads,
// where the encoding knows about that.
func (o *RESTOptions) storageVersion(stored schema.GroupResource, example runtime.Object) (schema.GroupVersion, error) {
	if compatible, ok := o.cfg.Encoding.(serverstorage.CompatibilityResourceEncodingConfig); ok {
		return compatible.BackwardCompatibileStorageEncodingFor(stored, example)
	}
	return o.cfg.Encoding.StorageEncodingFor(stored)
}

func (o *RESTOptions) options(resource, stored schema.GroupResource, codec runtime.Codec, versioner runtime.GroupVersioner) generic.RESTOptions {
	config := storagebackend.Config{
		Prefix:          o.cfg.Prefix,
		Codec:           codec,
		EncodeVersioner: versioner,
		Transformer:     o.cfg.Transformers[stored],
	}
	return generic.RESTOptions{
		StorageConfig:           config.ForResource(resource),
		Decorator:               o.decorate,
		EnableGarbageCollection: true,
		DeleteCollectionWorkers: o.cfg.DeleteCollectionWorkers,
		ResourcePrefix:          resourcePrefix(stored),
	}
}

// resourcePrefix is the part of the key below the prefix: pods, apps/deployments.
func resourcePrefix(resource schema.GroupResource) string {
	if resource.Group == "" {
		return strings.ToLower(resource.Resource)
	}
	return strings.ToLower(resource.Group + "/" + resource.Resource)
}

// decorate is the generic.StorageDecorator. The codec is taken from config, since
// apiextensions puts its own there for every custom resource. Indexes are the
// watch cache's and have no use here.
func (o *RESTOptions) decorate(
	config *storagebackend.ConfigForResource,
	resourcePrefix string,
	_ func(obj runtime.Object) (string, error),
	newFunc, newListFunc func() runtime.Object,
	_ storage.AttrFunc,
	_ storage.IndexerFuncs,
	_ *cache.Indexers,
) (storage.Interface, factory.DestroyFunc, error) {
	s, err := New(Config{
		Store:          o.cfg.Store,
		Codec:          config.Codec,
		NewFunc:        newFunc,
		NewListFunc:    newListFunc,
		Prefix:         config.Prefix,
		ResourcePrefix: resourcePrefix,
		GroupResource:  config.GroupResource,
		Transformer:    config.Transformer,
	})
	if err != nil {
		return nil, nil, err
	}
	return s, s.Stop, nil
}
