package storage

import "context"

// termKey is the context key of the Raft term that guards writes.
type termKey struct{}

// WithTerm returns a context whose writes happen only while the Raft group's
// term is the given one; afterwards they are refused for good (IsFenced).
//
// It is how components that run only on the leader are fenced: the in-memory
// client of a node sets it. It must never be derived from anything that came
// over the network, since whoever sets it decides what may be written when.
func WithTerm(ctx context.Context, term uint64) context.Context {
	return context.WithValue(ctx, termKey{}, term)
}

// TermFrom returns the term that guards ctx's writes, 0 for none.
func TermFrom(ctx context.Context) uint64 {
	term, _ := ctx.Value(termKey{}).(uint64)
	return term
}
