// Package discovery is the API group discovery.k8s.io: the endpoints of Services.
//
// Everything here is called by any number of goroutines. Only apiserver imports it.
package discovery

import (
	discoveryv1 "k8s.io/api/discovery/v1"

	"kontiki/apiserver/kind"
)

// Group describes the group.
func Group() kind.Group {
	return kind.Group{
		Name:        discoveryv1.GroupName,
		Versions:    []string{"v1"},
		AddToScheme: discoveryv1.AddToScheme,
		Kinds:       map[string][]kind.Definition{"v1": {endpointSlices()}},
	}
}
