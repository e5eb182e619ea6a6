// Package apps is the API group apps: workloads that keep a number of pods.
//
// Everything here is called by any number of goroutines. Only apiserver imports it.
package apps

import (
	appsv1 "k8s.io/api/apps/v1"

	"kontiki/apiserver/kind"
)

// Group describes the group.
func Group() kind.Group {
	return kind.Group{
		Name:        appsv1.GroupName,
		Versions:    []string{"v1"},
		AddToScheme: appsv1.AddToScheme,
		Kinds:       map[string][]kind.Definition{"v1": {deployments(), replicaSets(), statefulSets(), daemonSets(), controllerRevisions()}},
	}
}
