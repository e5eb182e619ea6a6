// Package gossip is the ring: which nodes there are, where they are, which of
// them answer, how blank nodes become a cluster, and who holds which subnet.
//
// It owns membership and failure detection (hashicorp/memberlist underneath),
// the address book, the search for other nodes (names, beacon, address book),
// cluster formation and the spreading of subnet leases. It knows nothing of
// certificates, the store or Kubernetes: formation carries opaque payloads that
// a Founder makes and takes.
//
// Concurrency: all methods of Ring may be called from any goroutine, before,
// during and after Run. Ring.mu guards the directory and the lease table, and is
// never held while memberlist is called, because memberlist calls back with its
// own lock held. Files under Config.Dir are written by the goroutines of Run
// only, except the formation file, which only the formation's loop writes.
//
// It imports no other room. Rooms other than node see it through interfaces of
// their own; overlay may use the type Lease.
package gossip
