// Package nodelifecycle turns what the ring knows of nodes into Node conditions and
// taints, and evicts pods from nodes that are tainted NoExecute for longer than the
// pods tolerate.
//
// plan.go decides and is pure; controller.go does. Only controllers imports it.
package nodelifecycle
