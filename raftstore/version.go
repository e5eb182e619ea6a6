//go:build !nextversion

package raftstore

// CommandVersion is the latest version of commands that this program reads and writes.
// It is raised by one when a command is added or changed that an older program would
// misread.
const CommandVersion = 1
