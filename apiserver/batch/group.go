// Package batch is the API group batch: work that ends, and work that comes
// again by the clock.
//
// Everything here is called by any number of goroutines. Only apiserver imports it.
package batch

import (
	batchv1 "k8s.io/api/batch/v1"

	"kontiki/apiserver/kind"
)

// Group describes the group.
func Group() kind.Group {
	return kind.Group{
		Name:        batchv1.GroupName,
		Versions:    []string{"v1"},
		AddToScheme: batchv1.AddToScheme,
		Kinds:       map[string][]kind.Definition{"v1": {jobs(), cronJobs()}},
	}
}
