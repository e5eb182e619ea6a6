package apiserver

import (
	"os"
	"runtime/debug"
	"testing"
)

// TestMain lets the heap grow further between collections: some eighty servers are put
// together, used for a moment and dropped, and collecting each time that so little has
// doubled was a quarter of what the tests compute.
func TestMain(m *testing.M) {
	debug.SetGCPercent(400)
	os.Exit(m.Run())
}
