// Package kind is the one shape in which every kind of the API is described:
// how it is named, defaulted, prepared, validated, selected and printed. A group
// package lists its kinds; the server turns each into storage.
//
// A Kind is written once, while the server is put together, and only read after
// that; its functions are called by any number of goroutines and must not keep
// the objects that they are given. Only packages below apiserver import it.
package kind

import (
	"context"
	"fmt"
	"maps"
	"reflect"

	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
)

// Object is a pointer to a type of k8s.io/api.
type Object interface {
	runtime.Object
	metav1.Object
}

// Kind describes one kind. Fields that are not needed stay empty; what an empty
// field means is what most kinds want.
type Kind[T Object] struct {
	Resource   string // plural and lower case, as in URLs
	Singular   string
	ShortNames []string
	Categories []string
	Cluster    bool // not in a namespace
	New        func() T
	NewList    func() runtime.Object

	// Name is the rule for metadata.name; empty means a DNS subdomain.
	Name validation.ValidateNameFunc
	// CreateOnUpdate lets PUT make an object that does not exist.
	CreateOnUpdate bool
	// ConditionalUpdate refuses a PUT without a resourceVersion.
	ConditionalUpdate bool
	// ReturnDeleted answers a delete with the object instead of a Status.
	ReturnDeleted bool
	// KeepStatusOnCreate keeps a status that the creator has sent.
	KeepStatusOnCreate bool
	// Generation returns the part whose change raises metadata.generation.
	// Empty means that the kind has no generation.
	Generation func(T) any

	// Default fills in what was left out, when an object is decoded from a
	// request or from the store.
	Default func(T)
	// Prepare changes what a user may not decide. old is nil for a create.
	Prepare func(ctx context.Context, obj, old T)
	// Validate checks a new object, without metadata's own rules.
	Validate func(T) field.ErrorList
	// ValidateUpdate checks a change; empty means Validate on the new object.
	ValidateUpdate func(obj, old T) field.ErrorList
	// Warn returns what the user should know about an object that is valid. old is nil for
	// a create.
	Warn func(obj, old T) []string

	// Status describes the status subresource; nil means that there is none.
	Status *Status[T]
	// OrphansByDefault keeps what an object owns when its deletion says nothing
	// about that, as the oldest versions of some workloads do.
	OrphansByDefault bool
	// Graceful decides on graceful deletion as rest.RESTGracefulDeleteStrategy.
	Graceful func(ctx context.Context, obj T, options *metav1.DeleteOptions) bool
	// DeleteDuringUpdate, if set, must agree before an update that took the last
	// finalizer off a deleted object removes it.
	DeleteDuringUpdate func(obj T) bool

	// Fields are what field selectors can ask for besides name and namespace.
	Fields func(T) fields.Set
	// FieldLabels is what selectors call the Fields; nil: each by its own name.
	FieldLabels map[string]string
	// FieldRefusal is what is said of another label, in the format of fmt; empty: what nearly
	// all kinds with Fields say.
	FieldRefusal string
	// TTL, in seconds, of an object in the store; 0 means for ever.
	TTL uint64

	// Columns and Cells make the table of `kubectl get`. Cells returns one cell
	// for each column. Empty means Name and Age.
	Columns []metav1.TableColumnDefinition
	Cells   func(T) []any
	// RowConditions marks rows that are finished.
	RowConditions func(T) []metav1.TableRowCondition

	// Extend wraps or replaces the storages made from all this and adds
	// subresources; it may be nil.
	Extend func(Storages) (Storages, error)
}

// Status describes a status subresource.
type Status[T Object] struct {
	// Prepare runs after everything but status and metadata was taken from old.
	Prepare func(obj, old T)
	// Validate checks the change; metadata's own rules are checked before.
	Validate func(obj, old T) field.ErrorList
	// Warn is Kind.Warn for the status.
	Warn func(obj T) []string
}

// Storages maps a resource or resource/subresource to what serves it.
type Storages map[string]rest.Storage

// Definition is a Kind with its type erased.
type Definition interface {
	// AddToScheme registers defaults and field labels for the served version.
	AddToScheme(scheme *runtime.Scheme, gv schema.GroupVersion) error
	// Storages builds what serves the kind in the given version.
	Storages(scheme *runtime.Scheme, gv schema.GroupVersion, getter generic.RESTOptionsGetter) (Storages, error)
}

// Group is an API group: its served versions, most preferred first, and the
// kinds of each.
type Group struct {
	Name        string
	Versions    []string
	AddToScheme func(*runtime.Scheme) error
	Kinds       map[string][]Definition
}

// AddToScheme registers defaulting and selectable fields.
func (k *Kind[T]) AddToScheme(scheme *runtime.Scheme, gv schema.GroupVersion) error {
	if k.Default != nil {
		scheme.AddTypeDefaultingFunc(k.New(), func(obj any) { k.Default(obj.(T)) })
		if list := k.NewList(); list != nil {
			scheme.AddTypeDefaultingFunc(list, func(obj any) { k.defaultList(obj) })
		}
	}
	return k.addFieldLabels(scheme, gv)
}

func (k *Kind[T]) defaultList(list any) {
	items := reflect.ValueOf(list).Elem().FieldByName("Items")
	for i := range items.Len() {
		k.Default(items.Index(i).Addr().Interface().(T))
	}
}

func (k *Kind[T]) addFieldLabels(scheme *runtime.Scheme, gv schema.GroupVersion) error {
	if k.Fields == nil {
		return nil
	}
	gvk, err := kindOf(scheme, gv, k.New())
	if err != nil {
		return err
	}
	labels := map[string]string{"metadata.name": "metadata.name"}
	if !k.Cluster {
		labels["metadata.namespace"] = "metadata.namespace"
	}
	for name := range k.Fields(k.New()) {
		if k.FieldLabels == nil {
			labels[name] = name
		}
	}
	maps.Copy(labels, k.FieldLabels)
	refusal := "field label not supported: %s"
	if k.FieldRefusal != "" {
		refusal = k.FieldRefusal
	}
	return scheme.AddFieldLabelConversionFunc(gvk, func(label, value string) (string, string, error) {
		if name, ok := labels[label]; ok {
			return name, value, nil
		}
		return "", "", fmt.Errorf(refusal, label)
	})
}
