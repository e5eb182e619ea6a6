package openapi

import (
	"maps"
	"sync"

	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// Shared is GetOpenAPIDefinitions for several servers that name types alike: the
// definitions, some megabytes, are made once for each form of reference. Each call
// gets a map of its own, and in it extensions of its own: what builds documents
// writes into these and into nothing else.
func Shared() common.GetOpenAPIDefinitions {
	var mu sync.Mutex
	made := map[string]map[string]common.OpenAPIDefinition{} // by what a reference looks like
	return func(ref common.ReferenceCallback) map[string]common.OpenAPIDefinition {
		form := ref("")
		mu.Lock()
		defer mu.Unlock()
		all, ok := made[form.String()]
		if !ok {
			all = GetOpenAPIDefinitions(ref)
			made[form.String()] = all
		}
		own := make(map[string]common.OpenAPIDefinition, len(all))
		for name, definition := range all {
			definition.Schema.Extensions = spec.Extensions(maps.Clone(definition.Schema.Extensions))
			own[name] = definition
		}
		return own
	}
}
