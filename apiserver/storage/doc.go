// Package storage is k8s.io/apiserver's storage.Interface straight on the
// replica of a node: one Storage per resource, all over one raftstore. It owns
// how objects lie in the store (keys, encoding, encryption), which read level a
// resourceVersion asks for, the optimistic update loop, watches of objects, and
// the one place where the store's errors become API statuses.
//
// There is no watch cache in front of it, because the replica is a cache: reads,
// lists and the start of a watch are range scans over an immutable tree in memory.
//
// Every type here is safe for use by any number of goroutines. A Storage starts
// goroutines only for watches; Stop ends them and waits for them.
//
// Only apiserver imports this package. Components of a node reach objects through
// the API, so that admission and authorization are never passed by.
package storage
