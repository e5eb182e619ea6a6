package node

import (
	"context"
	"sync"
	"time"

	"kontiki/raftstore"
)

// peerPatience is how long a status waits for what other members say of themselves.
// Later answers are in the next status.
const peerPatience = 300 * time.Millisecond

// peers remembers what other members said of their replicas. The zero value is ready to
// use.
type peers struct {
	mu    sync.Mutex // protects known
	known map[string]*peer
}

type peer struct {
	status raftstore.PeerStatus
	at     time.Time     // of status; zero: it has not answered yet
	asking chan struct{} // closed when the question that is under way has ended; nil: none is
}

// ask asks members all at once, each at most once at a time, and returns what is known
// when all have answered, or after peerPatience.
func (p *peers) ask(ctx context.Context, store *raftstore.Store, ids []string) map[string]peer {
	ctx, cancel := context.WithTimeout(ctx, peerPatience)
	defer cancel()
	var asked []<-chan struct{}
	for _, id := range ids {
		asked = append(asked, p.begin(store, id))
	}
	for _, done := range asked {
		select {
		case <-done:
		case <-ctx.Done():
		}
	}
	out := map[string]peer{}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, id := range ids {
		out[id] = *p.known[id]
	}
	return out
}

// begin asks a member, unless it is being asked; what it returns is closed at the end.
// Who waits may give up before: a call that is cut short would take its stream, which
// writes share, for dead.
func (p *peers) begin(store *raftstore.Store, id string) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known == nil {
		p.known = map[string]*peer{}
	}
	known := p.known[id]
	if known == nil {
		known = &peer{}
		p.known[id] = known
	}
	if known.asking != nil {
		return known.asking
	}
	done := make(chan struct{})
	known.asking = done
	store.AskStatus(id, func(status raftstore.PeerStatus, err error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if err == nil {
			known.status, known.at = status, time.Now()
		}
		known.asking = nil
		close(done)
	})
	return done
}

// last is what a member said last.
func (p *peers) last(id string) peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	if known := p.known[id]; known != nil {
		return *known
	}
	return peer{}
}
