// Package workload is what the clients of a proof do, and what must hold of what they
// saw. A workload runs real API clients against every node and writes down each call
// and return; its Judge is a pure function of that history, which may come from a file.
//
// Clients are processes: each speaks to one node, over a connection of its own, one
// request at a time. No request is repeated by a client. Objects are in a namespace named
// after the workload: ConfigMaps, so that nothing but the API is under proof, or pods of
// the program in jepsen/witness, whose containers tell what they see in files.
package workload
