package kind

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/names"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// REST serves one kind: the library's generic store with names for kubectl.
type REST struct {
	*registry.Store
	shortNames []string
	categories []string
}

// ShortNames implements rest.ShortNamesProvider.
func (r *REST) ShortNames() []string { return r.shortNames }

// Categories implements rest.CategoriesProvider.
func (r *REST) Categories() []string { return r.categories }

// Delete implements rest.GracefulDeleter. What a kind's Graceful decided of an object as
// it saw it (BindDeletion) is decided anew when that has changed meanwhile.
func (r *REST) Delete(ctx context.Context, name string, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, bool, error) {
	for {
		try := options.DeepCopy()
		out, now, err := r.Store.Delete(ctx, name, validate, try)
		if !apierrors.IsConflict(err) || !boundMeanwhile(options, try) || ctx.Err() != nil {
			return out, now, err
		}
	}
}

// BindDeletion has an object deleted only as it was seen.
func BindDeletion(options *metav1.DeleteOptions, seen metav1.Object) {
	if options.Preconditions == nil {
		options.Preconditions = &metav1.Preconditions{}
	}
	if options.Preconditions.ResourceVersion == nil {
		options.Preconditions.ResourceVersion = ptr.To(seen.GetResourceVersion())
	}
}

// boundMeanwhile tells whether it was not the caller who named a version.
func boundMeanwhile(asked, tried *metav1.DeleteOptions) bool {
	named := func(o *metav1.DeleteOptions) bool {
		return o != nil && o.Preconditions != nil && o.Preconditions.ResourceVersion != nil
	}
	return named(tried) && !named(asked)
}

// StatusREST serves a status subresource from the store of its kind.
type StatusREST struct{ store *registry.Store }

// New implements rest.Storage.
func (r *StatusREST) New() runtime.Object { return r.store.New() }

// Destroy implements rest.Storage; the main resource owns the store.
func (r *StatusREST) Destroy() {}

// Get implements rest.Getter, which patches need.
func (r *StatusREST) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	return r.store.Get(ctx, name, options)
}

// Update implements rest.Updater. A status is never created by an update.
func (r *StatusREST) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, createValidation rest.ValidateObjectFunc, updateValidation rest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	return r.store.Update(ctx, name, info, createValidation, updateValidation, false, options)
}

// GetResetFields implements rest.ResetFieldsStrategy.
func (r *StatusREST) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return r.store.GetResetFields()
}

// ConvertToTable implements rest.TableConvertor.
func (r *StatusREST) ConvertToTable(ctx context.Context, obj, options runtime.Object) (*metav1.Table, error) {
	return r.store.ConvertToTable(ctx, obj, options)
}

// WithUpdateStrategy serves a subresource that writes the same object under
// other rules, as status and ephemeralcontainers do.
func WithUpdateStrategy(main *REST, s interface {
	rest.RESTUpdateStrategy
	rest.ResetFieldsStrategy
}) *StatusREST {
	store := *main.Store
	store.CreateStrategy, store.DeleteStrategy = nil, nil
	store.UpdateStrategy, store.ResetFieldsStrategy = s, s
	return &StatusREST{store: &store}
}

// Storages implements Definition.
func (k *Kind[T]) Storages(scheme *runtime.Scheme, gv schema.GroupVersion, getter generic.RESTOptionsGetter) (Storages, error) {
	gvk, err := kindOf(scheme, gv, k.New())
	if err != nil {
		return nil, err
	}
	s := &strategy[T]{typer: typer{scheme, gvk}, NameGenerator: names.SimpleNameGenerator, k: k}
	store := &registry.Store{
		NewFunc:                   func() runtime.Object { return k.New() },
		NewListFunc:               k.NewList,
		DefaultQualifiedResource:  gv.WithResource(k.Resource).GroupResource(),
		SingularQualifiedResource: gv.WithResource(k.Singular).GroupResource(),
		CreateStrategy:            s,
		UpdateStrategy:            s,
		DeleteStrategy:            s,
		ResetFieldsStrategy:       s,
		ReturnDeletedObject:       k.ReturnDeleted,
		TableConvertor:            k.table(),
	}
	if k.Graceful != nil {
		store.DeleteStrategy = graceful[T]{s}
	}
	if k.DeleteDuringUpdate != nil {
		store.ShouldDeleteDuringUpdate = func(_ context.Context, _ string, obj, _ runtime.Object) bool {
			return k.DeleteDuringUpdate(obj.(T))
		}
	}
	if k.TTL != 0 {
		store.TTLFunc = func(runtime.Object, uint64, bool) (uint64, error) { return k.TTL, nil }
	}
	attrs := k.attrs
	store.PredicateFunc = func(label labels.Selector, field fields.Selector) storage.SelectionPredicate {
		return storage.SelectionPredicate{Label: label, Field: field, GetAttrs: attrs}
	}
	if err := store.CompleteWithOptions(&generic.StoreOptions{RESTOptions: getter, AttrFunc: attrs}); err != nil {
		return nil, fmt.Errorf("storage of %s: %w", k.Resource, err)
	}
	main := &REST{Store: store, shortNames: k.ShortNames, categories: k.Categories}
	out := Storages{k.Resource: main}
	if k.Status != nil {
		out[k.Resource+"/status"] = WithUpdateStrategy(main, statusStrategy[T]{s})
	}
	if k.Extend != nil {
		return k.Extend(out)
	}
	return out, nil
}

// attrs are what selectors see of an object.
func (k *Kind[T]) attrs(o runtime.Object) (labels.Set, fields.Set, error) {
	obj, ok := o.(T)
	if !ok {
		return nil, nil, fmt.Errorf("%T is not a %s", o, k.Singular)
	}
	set := fields.Set{}
	if k.Fields != nil {
		set = k.Fields(obj)
	}
	set["metadata.name"] = obj.GetName()
	if !k.Cluster {
		set["metadata.namespace"] = obj.GetNamespace()
	}
	return labels.Set(obj.GetLabels()), set, nil
}
