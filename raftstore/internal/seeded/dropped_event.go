//go:build seeded_dropped_event

package seeded

// Error is what this build has on purpose.
const Error = DroppedEvent
