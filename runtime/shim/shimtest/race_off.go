//go:build !race

package shimtest

var raceFlags []string
