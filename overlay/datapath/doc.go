// Package datapath is the pod network of one node in the kernel's terms: bridge,
// tunnel, forwarding entries, routes, pod links.
//
// Plan decides, from what is known, what the kernel should hold; Kernel compares
// that with what the kernel does hold and changes the difference. Everything
// made here is recognised again by its name, its device or its route protocol;
// nothing else is ever changed or removed.
//
// A Kernel is used by one goroutine at a time, as overlay's Network does.
// Only overlay imports this package.
package datapath
