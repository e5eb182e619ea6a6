//go:build seeded_forgotten_vote

package seeded

// Error is what this build has on purpose.
const Error = ForgottenVote
