package kind

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// partREST serves a subresource that writes some fields of the main object, as
// ephemeralcontainers does. Server-side apply keeps track of those alone.
type partREST struct {
	store  *registry.Store
	filter map[fieldpath.APIVersion]fieldpath.Filter
}

var (
	_ rest.Patcher                   = &partREST{}
	_ rest.ResetFieldsFilterStrategy = &partREST{}
)

// WithPart serves a subresource by a strategy of its own that changes only what
// the patterns match, in version gv of the kind.
func WithPart(main *REST, s rest.RESTUpdateStrategy, gv schema.GroupVersion, patterns ...*fieldpath.SetMatcher) rest.Storage {
	store := *main.Store
	store.CreateStrategy, store.DeleteStrategy, store.ResetFieldsStrategy = nil, nil, nil
	store.UpdateStrategy = s
	filter := fieldpath.NewIncludeMatcherFilter(patterns...)
	return &partREST{&store, map[fieldpath.APIVersion]fieldpath.Filter{fieldpath.APIVersion(gv.String()): filter}}
}

// New implements rest.Storage.
func (r *partREST) New() runtime.Object { return r.store.New() }

// Destroy implements rest.Storage; the main resource owns the store.
func (*partREST) Destroy() {}

// Get implements rest.Getter, which patches need.
func (r *partREST) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	return r.store.Get(ctx, name, options)
}

// Update implements rest.Updater. It never creates.
func (r *partREST) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, createValidation rest.ValidateObjectFunc, updateValidation rest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	return r.store.Update(ctx, name, info, createValidation, updateValidation, false, options)
}

// GetResetFieldsFilter implements rest.ResetFieldsFilterStrategy.
func (r *partREST) GetResetFieldsFilter() map[fieldpath.APIVersion]fieldpath.Filter { return r.filter }

// ConvertToTable implements rest.TableConvertor.
func (r *partREST) ConvertToTable(ctx context.Context, obj, options runtime.Object) (*metav1.Table, error) {
	return r.store.ConvertToTable(ctx, obj, options)
}
