// Package nemesis plays faults on a lab while clients work: which, on whom and for how
// long is drawn from a seed; who leads at that moment is asked. Every fault comes with
// its heal, after each the cluster must become whole, and all is written into the
// history. One goroutine runs a Nemesis, and it alone uses the lab meanwhile.
package nemesis
