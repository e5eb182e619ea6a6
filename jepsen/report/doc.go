// Package report makes one page of a run: a picture first, of throughput and latency of
// every node over time, faults and anomalies; then the anomalies in words, and what is
// needed to run it again. The page is one file and asks for nothing else. It is pure.
package report
