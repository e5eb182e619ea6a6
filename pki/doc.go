// Package pki owns keys and trust: the identity of a node, the proof that both
// ends of a connection know the join secret, the cluster's certificate authority
// and what it signs, and the keys that encrypt the store's secrets at rest.
//
// Values are immutable once made and safe for concurrent use; the functions that
// touch a directory expect one process to own it. No other room is imported here.
package pki
