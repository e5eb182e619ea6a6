// Package apiserver serves the Kubernetes API of a node: the library
// k8s.io/apiserver over the node's replica of the store, with the kinds that the
// packages below describe.
//
// A Server is put together by New, serves through Handler and through the
// in-memory clients of Client, and works in the background while Run does. All
// methods are safe for use by any number of goroutines.
//
// Only node and cmd import it; controllers, runtime and overlay are clients.
package apiserver
