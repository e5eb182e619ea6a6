// Package scaletarget reads and writes the size of anything that has one: what an
// API serves with a scale subresource, built in or defined by a user.
//
// Targets may be used from any goroutine. Only controllers import this package.
package scaletarget

import (
	"context"
	"errors"
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/scale"
)

// Targets finds things with a size.
type Targets struct {
	Scales scale.ScalesGetter
	Mapper meta.ResettableRESTMapper
}

// Get answers the scale of an object and the resource it is written to. Errors are
// those of the API where it was asked.
func (t *Targets) Get(ctx context.Context, namespace, apiVersion, kind, name string) (*autoscalingv1.Scale, schema.GroupResource, error) {
	resources, err := t.Resources(apiVersion, kind)
	if err != nil {
		return nil, schema.GroupResource{}, err
	}
	first := errors.New("unrecognized resource")
	for i, r := range resources {
		resource := r.GroupResource()
		found, err := t.Scales.Scales(namespace).Get(ctx, resource, name, metav1.GetOptions{})
		if err == nil {
			return found, resource, nil
		}
		if i == 0 {
			first = err
		}
	}
	return nil, schema.GroupResource{}, first
}

// Resources are those that a kind is served as, the preferred one first.
func (t *Targets) Resources(apiVersion, kind string) ([]schema.GroupVersionResource, error) {
	gv, err := schema.ParseGroupVersion(apiVersion)
	if err != nil {
		return nil, fmt.Errorf("invalid API version in scale target reference: %w", err)
	}
	mappings, err := t.mappings(schema.GroupKind{Group: gv.Group, Kind: kind})
	if err != nil {
		return nil, err
	}
	var resources []schema.GroupVersionResource
	for _, mapping := range mappings {
		resources = append(resources, mapping.Resource)
	}
	return resources, nil
}

// mappings looks once more when a kind is not known: it may have been defined since.
func (t *Targets) mappings(kind schema.GroupKind) ([]*meta.RESTMapping, error) {
	mappings, err := t.Mapper.RESTMappings(kind)
	if meta.IsNoMatchError(err) {
		t.Mapper.Reset()
		mappings, err = t.Mapper.RESTMappings(kind)
	}
	return mappings, err
}

// Update writes a size. It is refused if the object changed since it was read.
func (t *Targets) Update(ctx context.Context, namespace string, resource schema.GroupResource, size *autoscalingv1.Scale) error {
	_, err := t.Scales.Scales(namespace).Update(ctx, resource, size, metav1.UpdateOptions{})
	return err
}
