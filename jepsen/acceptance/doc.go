// Package acceptance walks the paths that a user walks, in a lab of real nodes
// and real containers, with the commands that a user would type. It has no code
// but tests; they need root and the built program, whose path they take from
// KONTIKI_BIN (make test sets it).
package acceptance
