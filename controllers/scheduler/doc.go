// Package scheduler gives every pending pod of its profiles a node, and makes room
// for those that are more important than others.
//
// plan is pure: a Snapshot and pods in, decisions out, through filter and score
// plugins that carry upstream's names, weights, meaning and words (cycle.go asks and
// remembers, preempt.go makes room). The nodeCache is kept up to date by events and
// hands out snapshots in the time it takes to copy one pointer per node: nodeInfos are
// never changed, only replaced. The queue holds what waits, with back-off, and knows
// which changes may help which pod. The Scheduler ties them to the API: one goroutine
// plans, many write bindings, nominations and evictions.
//
// Only controllers imports this package.
package scheduler
