// Package seeded says which error this build has on purpose: none, unless a build
// tag asks for one. The proof (docs/JEPSEN.md) is run against each of them, to see
// that it finds what it is for. Error is a constant: what stands behind another one
// than the build's is not compiled. Only raftstore imports it.
package seeded

// The errors. Each one's tag is its name in lower case, after "seeded_".
const (
	Nothing          = iota
	Unsynced         // seeded_unsynced: the log is acknowledged before it is synced
	UnconfirmedRead  // seeded_unconfirmed_read: whoever believes to lead answers linearizable reads
	CreditedRead     // seeded_credited_read: acknowledgements from before a read confirm it
	DroppedEvent     // seeded_dropped_event: a watch that fell off goes on where history begins
	SessionlessRetry // seeded_sessionless_retry: what is tried again is executed again
	ForgottenVote    // seeded_forgotten_vote: a restart forgets whom the node voted for
)
