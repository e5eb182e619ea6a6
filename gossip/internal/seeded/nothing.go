//go:build !seeded_two_promises

package seeded

// TwoPromises lets a node that is bound to a proposal promise another one.
const TwoPromises = false
