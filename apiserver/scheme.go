package apiserver

import (
	"fmt"
	"reflect"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"kontiki/apiserver/kind"
)

var metaPackage = reflect.TypeFor[metav1.Status]().PkgPath()

// newScheme registers every served type, and registers it again as the internal
// version of its group. The library converts every object to that version and
// back; with the same type on both sides nothing is copied.
func newScheme(groups []kind.Group) (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	unversioned := schema.GroupVersion{Version: "v1"}
	metav1.AddToGroupVersion(scheme, unversioned)
	scheme.AddUnversionedTypes(unversioned, &metav1.Status{}, &metav1.APIVersions{},
		&metav1.APIGroupList{}, &metav1.APIGroup{}, &metav1.APIResourceList{})

	for _, group := range groups {
		if err := group.AddToScheme(scheme); err != nil {
			return nil, fmt.Errorf("types of API group %q: %w", group.Name, err)
		}
		var gvs []schema.GroupVersion
		for _, version := range group.Versions {
			gvs = append(gvs, schema.GroupVersion{Group: group.Name, Version: version})
		}
		if err := scheme.SetVersionPriority(gvs...); err != nil {
			return nil, err
		}
		addHub(scheme, gvs[0])
	}
	// Scale is a subresource of kinds in other groups.
	if err := autoscalingv1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	addHub(scheme, autoscalingv1.SchemeGroupVersion)

	for _, group := range groups {
		for version, kinds := range group.Kinds {
			gv := schema.GroupVersion{Group: group.Name, Version: version}
			for _, k := range kinds {
				if err := k.AddToScheme(scheme, gv); err != nil {
					return nil, fmt.Errorf("kinds of %s: %w", gv, err)
				}
			}
		}
	}
	return scheme, nil
}

// addHub registers the types of gv as its group's internal version, unless the
// group has brought its own.
func addHub(scheme *runtime.Scheme, gv schema.GroupVersion) {
	hub := schema.GroupVersion{Group: gv.Group, Version: runtime.APIVersionInternal}
	known := scheme.KnownTypes(hub)
	for name, t := range scheme.KnownTypes(gv) {
		if _, ok := known[name]; ok || t.PkgPath() == metaPackage {
			continue
		}
		scheme.AddKnownTypeWithName(hub.WithKind(name), reflect.New(t).Interface().(runtime.Object))
	}
}
