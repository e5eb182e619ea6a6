// Package server is what runs inside kontiki-shim: sandboxes and containers of
// one node, made in-process with libcontainer.
//
// It owns the folder it is given (socket, state, FIFOs, exits) and the cgroup
// tree below its root; nobody else writes there. Everything that a successor
// needs is on disk before a call is answered, so the process may end at any
// instruction; New adopts what it finds.
//
// Concurrency: each call runs in a goroutine of its own. Server.mu guards the maps
// and everything about exits, and is held for moments only; a container's own mu
// serializes what is done to it and may be held while it is created. Lock
// order: container.mu, then Server.mu.
//
// Only cmd/kontiki-shim may import it: it links libcontainer, which re-executes
// the program it is linked into for every container, so that program must be small.
package server
