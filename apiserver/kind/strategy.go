package kind

import (
	"context"
	"fmt"
	"reflect"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage/names"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

var metadata = field.NewPath("metadata")

// kindOf finds the name under which obj's type is registered in gv.
func kindOf(scheme *runtime.Scheme, gv schema.GroupVersion, obj runtime.Object) (schema.GroupVersionKind, error) {
	gvks, _, err := scheme.ObjectKinds(obj)
	if err != nil {
		return schema.GroupVersionKind{}, err
	}
	for _, gvk := range gvks {
		if gvk.GroupVersion() == gv {
			return gvk, nil
		}
	}
	// Registered only as the hub of gv's group, as core/v1 Events are in
	// events.k8s.io: the kinds' names are the same.
	for _, gvk := range gvks {
		if gvk.Group == gv.Group {
			return gv.WithKind(gvk.Kind), nil
		}
	}
	return schema.GroupVersionKind{}, fmt.Errorf("%T is not registered in %s", obj, gv)
}

// typer names objects by the served version, so that error messages and
// conflict details carry the group of the kind.
type typer struct {
	scheme *runtime.Scheme
	gvk    schema.GroupVersionKind
}

func (t typer) ObjectKinds(runtime.Object) ([]schema.GroupVersionKind, bool, error) {
	return []schema.GroupVersionKind{t.gvk}, false, nil
}

func (t typer) Recognizes(gvk schema.GroupVersionKind) bool { return t.scheme.Recognizes(gvk) }

// strategy implements the create, update and delete strategies of the library
// for one kind.
type strategy[T Object] struct {
	typer
	names.NameGenerator
	k *Kind[T]
}

func (s *strategy[T]) NamespaceScoped() bool                         { return !s.k.Cluster }
func (s *strategy[T]) AllowCreateOnUpdate(context.Context) bool      { return s.k.CreateOnUpdate }
func (s *strategy[T]) AllowUnconditionalUpdate(context.Context) bool { return !s.k.ConditionalUpdate }
func (s *strategy[T]) Canonicalize(runtime.Object)                   {}

// DefaultGarbageCollectionPolicy implements rest.GarbageCollectionDeleteStrategy.
func (s *strategy[T]) DefaultGarbageCollectionPolicy(context.Context) rest.GarbageCollectionPolicy {
	if s.k.OrphansByDefault {
		return rest.OrphanDependents
	}
	return rest.DeleteDependents
}

func (s *strategy[T]) PrepareForCreate(ctx context.Context, o runtime.Object) {
	obj := o.(T)
	if s.k.Status != nil && !s.k.KeepStatusOnCreate {
		part(obj, "Status").SetZero()
	}
	if s.k.Generation != nil {
		obj.SetGeneration(1)
	}
	if s.k.Prepare != nil {
		var none T
		s.k.Prepare(ctx, obj, none)
	}
}

func (s *strategy[T]) PrepareForUpdate(ctx context.Context, o, p runtime.Object) {
	obj, old := o.(T), p.(T)
	if s.k.Status != nil {
		part(obj, "Status").Set(part(old, "Status"))
	}
	if s.k.Prepare != nil {
		s.k.Prepare(ctx, obj, old)
	}
	if s.k.Generation != nil && !apiequality.Semantic.DeepEqual(s.k.Generation(obj), s.k.Generation(old)) {
		obj.SetGeneration(old.GetGeneration() + 1)
	}
}

func (s *strategy[T]) Validate(_ context.Context, o runtime.Object) field.ErrorList {
	obj := o.(T)
	name := s.k.Name
	if name == nil {
		name = validation.NameIsDNSSubdomain
	}
	errs := validation.ValidateObjectMetaAccessor(obj, !s.k.Cluster, name, metadata)
	for i, f := range obj.GetFinalizers() {
		errs = append(errs, FinalizerName(f, metadata.Child("finalizers").Index(i))...)
	}
	if s.k.Validate != nil {
		errs = append(errs, s.k.Validate(obj)...)
	}
	return errs
}

func (s *strategy[T]) ValidateUpdate(_ context.Context, o, p runtime.Object) field.ErrorList {
	obj, old := o.(T), p.(T)
	errs := validation.ValidateObjectMetaAccessorUpdate(obj, old, metadata)
	switch {
	case s.k.ValidateUpdate != nil:
		errs = append(errs, s.k.ValidateUpdate(obj, old)...)
	case s.k.Validate != nil:
		errs = append(errs, s.k.Validate(obj)...)
	}
	return errs
}

func (s *strategy[T]) WarningsOnCreate(_ context.Context, o runtime.Object) []string {
	if s.k.Warn == nil {
		return nil
	}
	var none T
	return s.k.Warn(o.(T), none)
}

func (s *strategy[T]) WarningsOnUpdate(_ context.Context, o, p runtime.Object) []string {
	if s.k.Warn == nil {
		return nil
	}
	return s.k.Warn(o.(T), p.(T))
}

// GetResetFields tells server-side apply what a write to the main resource
// never changes.
func (s *strategy[T]) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	if s.k.Status == nil {
		return nil
	}
	return resetFields(s.gvk.GroupVersion(), "status")
}

// graceful is a strategy for kinds that end slowly. It is a type of its own
// because the library asks by type.
type graceful[T Object] struct{ *strategy[T] }

func (g graceful[T]) CheckGracefulDelete(ctx context.Context, o runtime.Object, options *metav1.DeleteOptions) bool {
	return g.k.Graceful(ctx, o.(T), options)
}

// statusStrategy implements updates of the status subresource.
type statusStrategy[T Object] struct{ *strategy[T] }

func (s statusStrategy[T]) PrepareForUpdate(_ context.Context, o, p runtime.Object) {
	obj, old := o.(T), p.(T)
	if spec := part(obj, "Spec"); spec.IsValid() {
		spec.Set(part(old, "Spec"))
	}
	if s.k.Status.Prepare != nil {
		s.k.Status.Prepare(obj, old)
	}
}

func (s statusStrategy[T]) ValidateUpdate(_ context.Context, o, p runtime.Object) field.ErrorList {
	obj, old := o.(T), p.(T)
	errs := validation.ValidateObjectMetaAccessorUpdate(obj, old, metadata)
	if s.k.Status.Validate != nil {
		errs = append(errs, s.k.Status.Validate(obj, old)...)
	}
	return errs
}

func (s statusStrategy[T]) AllowCreateOnUpdate(context.Context) bool { return false }

func (s statusStrategy[T]) WarningsOnUpdate(_ context.Context, o, _ runtime.Object) []string {
	if s.k.Status.Warn == nil {
		return nil
	}
	return s.k.Status.Warn(o.(T))
}

func (s statusStrategy[T]) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return resetFields(s.gvk.GroupVersion(), "spec")
}

func resetFields(gv schema.GroupVersion, names ...string) map[fieldpath.APIVersion]*fieldpath.Set {
	set := fieldpath.NewSet()
	for _, name := range names {
		set.Insert(fieldpath.MakePathOrDie(name))
	}
	return map[fieldpath.APIVersion]*fieldpath.Set{fieldpath.APIVersion(gv.String()): set}
}

// part is a top-level struct field of an API object.
func part(obj runtime.Object, name string) reflect.Value {
	return reflect.ValueOf(obj).Elem().FieldByName(name)
}
