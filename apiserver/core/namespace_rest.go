package core

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	storeerr "k8s.io/apiserver/pkg/storage/errors"
	"k8s.io/apiserver/pkg/util/dryrun"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"kontiki/apiserver/kind"
)

// extendNamespaces makes deletion of a namespace a phase of its life: it is
// Terminating until nothing in it is left and its finalizers are gone.
func extendNamespaces(in kind.Storages) (kind.Storages, error) {
	main := in["namespaces"].(*kind.REST)
	in["namespaces/finalize"] = kind.WithUpdateStrategy(main, finalizeStrategy{main.Store.UpdateStrategy})
	in["namespaces"] = &namespaceREST{main: main}
	return in, nil
}

// finalizeStrategy lets the finalizers of the spec change, and nothing else.
type finalizeStrategy struct{ rest.RESTUpdateStrategy }

// PrepareForUpdate implements rest.RESTUpdateStrategy.
func (finalizeStrategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	obj.(*corev1.Namespace).Status = old.(*corev1.Namespace).Status
}

// ValidateUpdate implements rest.RESTUpdateStrategy.
func (finalizeStrategy) ValidateUpdate(_ context.Context, obj, _ runtime.Object) field.ErrorList {
	return validateNamespace(obj.(*corev1.Namespace))
}

// GetResetFields implements rest.ResetFieldsStrategy.
func (finalizeStrategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return map[fieldpath.APIVersion]*fieldpath.Set{"v1": fieldpath.NewSet(fieldpath.MakePathOrDie("status"))}
}

// namespaceREST is the store without deletion of whole collections, and with
// deletion in two steps.
type namespaceREST struct {
	main *kind.REST
}

var (
	_ rest.Lister                 = &namespaceREST{}
	_ rest.CreaterUpdater         = &namespaceREST{}
	_ rest.Patcher                = &namespaceREST{}
	_ rest.GracefulDeleter        = &namespaceREST{}
	_ rest.Watcher                = &namespaceREST{}
	_ rest.ResetFieldsStrategy    = &namespaceREST{}
	_ rest.StorageVersionProvider = &namespaceREST{}
	_ rest.ShortNamesProvider     = &namespaceREST{}
	_ rest.SingularNameProvider   = &namespaceREST{}
)

// Delete implements rest.GracefulDeleter.
func (r *namespaceREST) Delete(ctx context.Context, name string, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, bool, error) {
	obj, err := r.main.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, false, err
	}
	ns := obj.(*corev1.Namespace)
	if options, err = withUID(options, ns); err != nil {
		return nil, false, err
	}
	if ns.DeletionTimestamp.IsZero() {
		return r.terminate(ctx, name, validate, options)
	}
	if len(ns.Spec.Finalizers) != 0 {
		return ns, false, nil
	}
	return r.main.Delete(ctx, name, validate, options)
}

// withUID binds a deletion to the namespace that was seen, so that a new one of
// the same name is not deleted by the second step of the first one's deletion.
func withUID(options *metav1.DeleteOptions, ns *corev1.Namespace) (*metav1.DeleteOptions, error) {
	if options == nil {
		options = metav1.NewDeleteOptions(0)
	}
	out := options.DeepCopy()
	if out.Preconditions == nil {
		out.Preconditions = &metav1.Preconditions{}
	}
	p := out.Preconditions
	switch {
	case p.UID == nil:
		p.UID = &ns.UID
	case *p.UID != ns.UID:
		return nil, conflict("namespaces", ns.Name, fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", *p.UID, ns.UID))
	}
	if p.ResourceVersion != nil && *p.ResourceVersion != ns.ResourceVersion {
		return nil, conflict("namespaces", ns.Name, fmt.Errorf("Precondition failed: ResourceVersion in precondition: %v, ResourceVersion in object meta: %v", *p.ResourceVersion, ns.ResourceVersion))
	}
	return out, nil
}

// terminate is the first step of a deletion.
func (r *namespaceREST) terminate(ctx context.Context, name string, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, bool, error) {
	key, err := r.main.KeyFunc(ctx, name)
	if err != nil {
		return nil, false, err
	}
	preconditions := storage.Preconditions{UID: options.Preconditions.UID, ResourceVersion: options.Preconditions.ResourceVersion}
	out := r.main.NewFunc()
	err = r.main.Storage.GuaranteedUpdate(ctx, key, out, false, &preconditions,
		storage.SimpleUpdate(func(existing runtime.Object) (runtime.Object, error) {
			ns, ok := existing.(*corev1.Namespace)
			if !ok {
				return nil, fmt.Errorf("expected *core.Namespace, got %v", existing)
			}
			if err := validate(ctx, ns); err != nil {
				return nil, err
			}
			if ns.DeletionTimestamp.IsZero() {
				now := metav1.Now()
				ns.DeletionTimestamp = &now
			}
			ns.Status.Phase = corev1.NamespaceTerminating
			setPropagation(ns, options)
			return ns, nil
		}),
		dryrun.IsDryRun(options.DryRun), nil)
	if err != nil {
		err = storeerr.InterpretGetError(err, corev1.Resource("namespaces"), name)
		if _, ok := err.(*apierrors.StatusError); !ok {
			err = storeerr.InterpretDeleteError(err, corev1.Resource("namespaces"), name)
		}
		return nil, false, err
	}
	return out, false, nil
}

// setPropagation keeps the finalizers that the deletion's propagation asks for.
func setPropagation(ns *corev1.Namespace, options *metav1.DeleteOptions) {
	have := sets.New(ns.Finalizers...)
	orphan, foreground := have.Has(metav1.FinalizerOrphanDependents), have.Has(metav1.FinalizerDeleteDependents)
	switch {
	case options.OrphanDependents != nil: //nolint:staticcheck // clients still send it
		orphan, foreground = *options.OrphanDependents, false
	case options.PropagationPolicy != nil:
		orphan = *options.PropagationPolicy == metav1.DeletePropagationOrphan
		foreground = *options.PropagationPolicy == metav1.DeletePropagationForeground
	}
	want := func(name string, on bool) {
		if on {
			have.Insert(name)
		} else {
			have.Delete(name)
		}
	}
	want(metav1.FinalizerOrphanDependents, orphan)
	want(metav1.FinalizerDeleteDependents, foreground)
	if !have.Equal(sets.New(ns.Finalizers...)) {
		ns.Finalizers = sets.List(have)
	}
}

// New implements rest.Storage.
func (r *namespaceREST) New() runtime.Object { return r.main.New() }

// NewList implements rest.Lister.
func (r *namespaceREST) NewList() runtime.Object { return r.main.NewList() }

// Destroy implements rest.Storage.
func (r *namespaceREST) Destroy() { r.main.Destroy() }

// NamespaceScoped implements rest.Scoper.
func (r *namespaceREST) NamespaceScoped() bool { return false }

// GetSingularName implements rest.SingularNameProvider.
func (r *namespaceREST) GetSingularName() string { return r.main.GetSingularName() }

// ShortNames implements rest.ShortNamesProvider.
func (r *namespaceREST) ShortNames() []string { return r.main.ShortNames() }

// StorageVersion implements rest.StorageVersionProvider.
func (r *namespaceREST) StorageVersion() runtime.GroupVersioner { return r.main.StorageVersion() }

// GetResetFields implements rest.ResetFieldsStrategy.
func (r *namespaceREST) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return r.main.GetResetFields()
}

// Get implements rest.Getter.
func (r *namespaceREST) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	return r.main.Get(ctx, name, options)
}

// List implements rest.Lister.
func (r *namespaceREST) List(ctx context.Context, options *metainternalversion.ListOptions) (runtime.Object, error) {
	return r.main.List(ctx, options)
}

// Watch implements rest.Watcher.
func (r *namespaceREST) Watch(ctx context.Context, options *metainternalversion.ListOptions) (watch.Interface, error) {
	return r.main.Watch(ctx, options)
}

// ConvertToTable implements rest.TableConvertor.
func (r *namespaceREST) ConvertToTable(ctx context.Context, obj, options runtime.Object) (*metav1.Table, error) {
	return r.main.ConvertToTable(ctx, obj, options)
}

// Create implements rest.Creater.
func (r *namespaceREST) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	return r.main.Create(ctx, obj, validate, options)
}

// Update implements rest.Updater.
func (r *namespaceREST) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, createValidation rest.ValidateObjectFunc, updateValidation rest.ValidateObjectUpdateFunc, forceAllowCreate bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	return r.main.Update(ctx, name, info, createValidation, updateValidation, forceAllowCreate, options)
}
