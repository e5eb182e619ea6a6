// Package scheduler gives every pending pod of `default-scheduler` a node.
//
// plan is pure: a Snapshot and pods in, decisions out, through filter and score
// plugins that carry upstream's names, weights, meaning and words. The nodeCache is
// kept up to date by events and hands out snapshots in the time it takes to copy
// one pointer per node: NodeInfos are never changed, only replaced. The queue holds
// what waits, with back-off, and knows which events may help which pod. The
// Scheduler ties them to the API: one goroutine plans, many write bindings.
//
// Only controllers imports this package.
package scheduler
