// Package overlay is the pod network of one node: addresses of pods, the tunnel
// to other nodes, Services and DNS.
//
// Its centre is Network. It reads Nodes, Services and EndpointSlices through an
// API client, other nodes' leases from the ring, and keeps the kernel as these
// say; what it needs to come up without either is kept on disk.
//
// All methods of a Network may be called by any number of goroutines.
// Only node and cmd import this package; the agent sees Attach and Detach
// through an interface of its own.
package overlay
