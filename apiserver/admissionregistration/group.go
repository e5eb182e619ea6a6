// Package admissionregistration is the API group admissionregistration.k8s.io:
// which webhooks and policies decide on requests. The library's admission plugins
// read what is stored here.
//
// Everything here is called by any number of goroutines. Only apiserver imports it.
package admissionregistration

import (
	arv1 "k8s.io/api/admissionregistration/v1"

	"kontiki/apiserver/kind"
)

// Group describes the group.
func Group() kind.Group {
	return kind.Group{
		Name:        arv1.GroupName,
		Versions:    []string{"v1"},
		AddToScheme: arv1.AddToScheme,
		Kinds: map[string][]kind.Definition{"v1": {
			validatingWebhooks(), mutatingWebhooks(),
			validatingPolicies(), validatingBindings(),
			mutatingPolicies(), mutatingBindings(),
		}},
	}
}
