// Package shim is the node's side of kontiki-shim, the small program that is
// the parent of every container of a node.
//
// It owns the vocabulary of both sides (api.go), the wire format (wire.go) and
// the Client, which finds, starts, upgrades and calls the program. What runs
// inside the program is in runtime/shim/server; nothing but cmd/kontiki-shim
// imports that, because it links libcontainer, cgo and libseccomp, which must
// stay out of the node's own program.
//
// A Client is safe for use by many goroutines at once. Every call may be
// repeated: things are named by their caller, and asking for what is already so
// succeeds. A call that found the shim dead starts it again and is repeated,
// except Exec, whose outcome is then unknown.
package shim
