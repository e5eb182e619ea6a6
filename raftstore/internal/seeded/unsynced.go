//go:build seeded_unsynced

package seeded

// Error is what this build has on purpose.
const Error = Unsynced
