// Package lab makes virtual hosts on one machine and runs real kontiki nodes on
// them. A host is a network namespace on a bridge, a mount namespace, a cgroup
// subtree and a data directory; the machine itself has an address on the bridge.
//
// What a lab is made of is found by its names, never only by what was written
// down, so that Down removes everything after a crash at any point. A Lab is used
// by one goroutine at a time; several processes may use one lab, and several labs
// stand side by side. It drives the kontiki binary and imports no room.
//
// Faults of the network are rules at a host's eth0, see rules.go. Nodes are told
// no address: they find their own, and each other by name or by beacon, so that
// hosts can be readdressed.
//
//	machine ── .1 ─┐
//	               bridge kl-NAME ── veth ── n1 (.11)  kontiki node, shim, pods
//	                              ── veth ── n2 (.12)
//	                              ── veth ── n3 (.13)
package lab
