package kind

import (
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
)

// Virtual is a kind that is answered and never stored, as reviews are.
type Virtual struct {
	Resource string
	Storage  rest.Storage
}

// AddToScheme implements Definition.
func (Virtual) AddToScheme(*runtime.Scheme, schema.GroupVersion) error { return nil }

// Storages implements Definition.
func (v Virtual) Storages(*runtime.Scheme, schema.GroupVersion, generic.RESTOptionsGetter) (Storages, error) {
	return Storages{v.Resource: v.Storage}, nil
}
