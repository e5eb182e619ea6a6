// Package core is the API group "": pods, services, nodes, namespaces,
// configuration and events. One file, or a few with a common first word, holds
// all there is to know of a kind.
//
// Everything here is called by any number of goroutines. Only apiserver and its
// group packages import it.
package core
