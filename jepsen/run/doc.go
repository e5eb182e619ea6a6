// Package run is one proof from beginning to end: a lab and a cluster in it, clients of
// the workloads on every node, faults, a history on disk, what judges find in it, and a
// report. Judging needs the history alone and can be done again.
package run
