// Package nft programs Services, host ports and masquerading into nftables: the
// table "ip kontiki", which is this package's alone.
//
// What a new connection meets (later packets follow conntrack and look nothing up):
//
//	guard, untracked       (of every packet) no tracking of the tunnels' own packets
//	prerouting, output   → chain services
//	services               vmap services  (address . protocol . port)  → goto lb-N
//	                       vmap nodeports (protocol . port), if the address is the node's → goto np-N
//	lb-N, np-N             map endpoints  (address . protocol . port . random i < N) → dnat to (address . port)
//	forward, refuse-output (of new connections) set refused, and all that is left in the Services' range → reject
//	postrouting            masquerade: marked for it; a pod that reached itself; what
//	                       leaves the cluster
//
// One chain serves all Services with the same number of endpoints, so that a
// Service costs two kinds of map elements and no rule; a packet costs three
// lookups whatever the number of Services. np-N looks up with address 0.0.0.0;
// "-m" chains also mark the packet for masquerading.
//
// A Programmer is safe for use by any number of goroutines. Only overlay imports
// this package.
package nft
