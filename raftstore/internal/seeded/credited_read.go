//go:build seeded_credited_read

package seeded

// Error is what this build has on purpose.
const Error = CreditedRead
