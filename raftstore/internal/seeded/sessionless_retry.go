//go:build seeded_sessionless_retry

package seeded

// Error is what this build has on purpose.
const Error = SessionlessRetry
