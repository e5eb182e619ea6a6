//go:build !(seeded_unsynced || seeded_unconfirmed_read || seeded_credited_read || seeded_dropped_event || seeded_sessionless_retry || seeded_forgotten_vote)

package seeded

// Error is what this build has on purpose.
const Error = Nothing
