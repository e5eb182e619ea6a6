//go:build seeded_unconfirmed_read

package seeded

// Error is what this build has on purpose.
const Error = UnconfirmedRead
