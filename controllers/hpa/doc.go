// Package hpa sizes what a HorizontalPodAutoscaler names after what its pods use.
//
// metrics.go reads from the metrics APIs. plan.go decides and is pure, with
// proposal.go (one metric's opinion), sample.go (which pods count) and limit.go
// (how fast it may go). controller.go does: it looks every 15 s, with one worker a
// key. What was recommended lately is remembered here; a new leader begins with the
// size it finds, as upstream after a restart. Only controllers imports this package.
package hpa
