// Package raftstore is the replicated, versioned key-value store that holds the
// state of a cluster: a Raft group (hashicorp/raft), a finite state machine over
// an immutable radix tree, transactions, watches, snapshots, consistent reads
// and forwarding.
//
// A Store is safe for use by any number of goroutines. Views are immutable.
//
// No other room is imported here, and nothing but apiserver, node and cmd
// imports this package.
package raftstore
