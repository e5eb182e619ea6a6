// Package openapi holds the OpenAPI definitions of every type that the API
// serves. The big file is generated; `go generate ./apiserver/openapi` makes it
// anew when k8s.io/api changes.
//
// It is pure data, safe for concurrent use. Only apiserver imports it.
package openapi

//go:generate sh generate.sh
