// Package node is the composition root: it builds a node out of the rooms,
// starts them in order, carries what one room offers to the room that asks for
// it, and stops them in the reverse order. It decides nothing of its own; only
// cmd imports it.
//
// Run blocks until the node has stopped. One process runs one node on a data
// directory at a time; a lock holds others off.
package node
