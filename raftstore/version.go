package raftstore

import "strconv"

// CommandVersion is the latest version of commands that this program reads and writes.
var CommandVersion = mustBeVersion(commandVersion)

// commandVersion is raised by one when a command is added or changed that an older program
// would misread. It is a text for the linker to set: what a rolling upgrade does is tried
// with a program that is ahead by one, and compiling all that stands on the store once more
// for that would take minutes.
var commandVersion = "1"

func mustBeVersion(text string) uint8 {
	version, err := strconv.ParseUint(text, 10, 8)
	if err != nil || version == 0 {
		panic("raftstore: the linker was told of a version of commands that is none: " + text)
	}
	return uint8(version)
}
