// Package history is what a proof writes down while it runs: every call and every
// return of every client, and every fault, in the one order in which they happened.
// It is kept on disk as JSON, a line an event, so that a run can be judged again.
//
// An Event's Index is its place in that order. A call is written down before it is
// sent and a return after it came, so the places of two calls tell whether one was
// over before the other began, whatever the clock said.
//
// A Recorder may be used by many goroutines; all else is values.
package history
