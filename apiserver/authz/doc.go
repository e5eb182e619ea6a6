// Package authz decides who may do what: RBAC over Role, ClusterRole and their
// bindings, with the roles that every cluster has as data.
//
// An Authorizer is safe for use by any number of goroutines. Only apiserver
// imports this package.
package authz
