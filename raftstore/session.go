package raftstore

import (
	"context"
	"sync"
)

// proposer is this process's side of its session. It numbers transactions and
// knows which are outstanding.
type proposer struct {
	mu          sync.Mutex
	id          uint64 // of the session; 0: none is open
	next        uint64
	floor       uint64
	outstanding map[uint64]struct{}
	opening     chan struct{} // not nil while somebody opens a session
}

// ticket is one transaction's place in a session.
type ticket struct{ session, sequence uint64 }

// begin takes the next sequence. open makes a session if none is open; one
// caller at a time runs it, others wait.
func (p *proposer) begin(ctx context.Context, open func(context.Context) (uint64, error)) (ticket, error) {
	for {
		p.mu.Lock()
		if p.id != 0 {
			t := ticket{p.id, p.next}
			p.next++
			p.outstanding[t.sequence] = struct{}{}
			p.mu.Unlock()
			return t, nil
		}
		if wait := p.opening; wait != nil {
			p.mu.Unlock()
			select {
			case <-wait:
				continue
			case <-ctx.Done():
				return ticket{}, context.Cause(ctx)
			}
		}
		p.opening = make(chan struct{})
		p.mu.Unlock()

		id, err := open(ctx)

		p.mu.Lock()
		close(p.opening)
		p.opening = nil
		if err == nil {
			p.id, p.next, p.floor, p.outstanding = id, 1, 1, make(map[uint64]struct{})
		}
		p.mu.Unlock()
		if err != nil {
			return ticket{}, err
		}
	}
}

// end says that nobody waits for t any more.
func (p *proposer) end(t ticket) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.id == t.session {
		delete(p.outstanding, t.sequence)
	}
}

// floorOf is the lowest outstanding sequence of t's session; t itself at most.
func (p *proposer) floorOf(t ticket) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.id != t.session {
		return 0 // the session is gone; the FSM will say so
	}
	for p.floor < p.next {
		if _, ok := p.outstanding[p.floor]; ok {
			break
		}
		p.floor++
	}
	return min(p.floor, t.sequence)
}

// lost says that the store does not know the session any more.
func (p *proposer) lost(id uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.id == id {
		p.id = 0
	}
}
