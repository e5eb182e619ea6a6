package nodelifecycle

import "time"

// State is what the ring holds a node for.
type State string

// States of a node in the ring, in memberlist's words.
const (
	Alive   State = "alive"
	Suspect State = "suspect" // one peer at least cannot reach it; not yet agreed on
	Dead    State = "dead"    // the ring has agreed that nobody reaches it
	Left    State = "left"    // it said it would go
)

// Member is one node as the ring sees it.
type Member struct {
	State State
	Since time.Time // of State; zero if not known
}

// RingHealth is the view of the ring this controller acts on; node fills it from
// gossip.
type RingHealth interface {
	// Member answers what the ring holds of the node with that name; false if it
	// does not know it (any more).
	Member(node string) (Member, bool)
	// Watch returns a channel that gets a value after members have changed (several
	// changes may be one value), and a function that ends the watch.
	Watch() (changed <-chan struct{}, stop func())
}
