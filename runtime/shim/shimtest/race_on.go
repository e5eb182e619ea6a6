//go:build race

package shimtest

// raceFlags: under the race detector, the shim is built with it, too.
var raceFlags = []string{"-race"}
