// Package pause turns kontiki-shim into the first process of a pod whose
// containers see each other's processes, when it is executed as "pause". It reaps
// what loses its parent and waits to be told to end.
//
// It does so in C, before Go's runtime begins, so that such a process costs some
// kilobytes. Only cmd/kontiki-shim imports it.
package pause

// #cgo CFLAGS: -Wall
import "C"
