//go:build nextversion

package raftstore

// CommandVersion of a program that is ahead by one: its commands are as they were, but
// no older program takes them. It is built to try what a rolling upgrade does.
const CommandVersion = 2
