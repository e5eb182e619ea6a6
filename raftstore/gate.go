package raftstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"
)

// The gate. A program may know commands that older programs do not. It writes them only
// once the gate stands at their version: a number in the replicated state, raised by a
// logged command of the leader when all members, those without a vote too, have said
// that they know the version. Until then any member may go back to the older program;
// afterwards that program refuses to start, and to join.
//
// Two things could bring a member into the group that does not know the version: one
// that is let in while the others are asked, and a leader that was deposed meanwhile.
// The first is kept out by beginAdmitting and by the members, who must be those
// that were asked; the second by the term that the command carries.

// gateRetry is the time between two rounds of questions while the gate waits.
const gateRetry = 2 * time.Second

// GateWait is a member that the gate waits for.
type GateWait struct {
	ID    string
	Knows int // version of commands that it knows; 0: it does not answer
}

// errTooOld is wrapped, as errUnknownVersion is, where a program meets what only newer
// ones know.
var errTooOld = errors.New("this program is too old for its cluster")

func tooOld(needs, knows uint8) error {
	return fmt.Errorf("%w: its members have agreed on commands of version %d, and this program knows %d: start the node with the program that the other members run, or a newer one: %w",
		errTooOld, needs, knows, errUnknownVersion)
}

// encode writes a command as every member can read it.
func (s *Store) encode(c *command) ([]byte, error) {
	return encodeCommandIn(min(s.fsm.current.Load().gate, s.cfg.commandVersion), c)
}

// runGate opens the gate while this node leads. Where it stands at this program's
// version, there is nothing to do until another process starts.
func (s *Store) runGate() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for s.fsm.current.Load().gate < s.cfg.commandVersion {
		l, led := s.leadership.get()
		timer.Stop()
		if l.Self {
			if s.leadership.ready() == l.Term {
				if err := s.tryGate(l.Term); err != nil && s.err() == nil {
					s.log.Debug("the gate was not opened; it is tried again", "version", s.cfg.commandVersion, "error", err)
				}
			}
			timer.Reset(gateRetry)
		} else {
			s.gateWaits.Store(nil)
		}
		select {
		case <-led:
		case <-timer.C:
		case <-s.closing:
			return
		}
	}
	s.gateWaits.Store(nil)
}

// tryGate asks all members what they know, and opens the gate if they know enough.
func (s *Store) tryGate(term uint64) error {
	asked := s.servers()
	waits := s.askKnown(asked)
	s.gateWaits.Store(&waits)
	if len(waits) > 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(s.life, choreTime)
	defer cancel()
	done, err := s.beginAdmitting(ctx)
	if err != nil {
		return err
	}
	defer done()
	// A change of members whose caller has gone may still be in Raft's hands.
	if _, err := s.Barrier(ctx); err != nil {
		return err
	}
	if !slices.Equal(asked, s.servers()) {
		return errors.New("the members have changed since they were asked")
	}
	b, err := encodeCommand(&command{Kind: kindGate, Gate: s.cfg.commandVersion, Term: term})
	if err != nil {
		return err
	}
	r, err := s.proposeHere(ctx, b)
	if err == nil && r.Code != codeDone {
		err = ErrFenced
	}
	if err == nil {
		s.log.Info("all members know the newer commands; they are used from now on", "version", s.cfg.commandVersion)
	}
	return err
}

// beginAdmitting waits until no member is being let in and the gate is not being opened,
// and keeps that so until done is called.
func (s *Store) beginAdmitting(ctx context.Context) (done func(), err error) {
	select {
	case s.admitting <- struct{}{}:
		return func() { <-s.admitting }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// askKnown asks members at the same time and returns those that know too little, or
// have not said what they know.
func (s *Store) askKnown(servers []raft.Server) []GateWait {
	answers := make(chan GateWait, len(servers))
	n := 0
	for _, server := range servers {
		id := string(server.ID)
		if id == s.cfg.NodeID {
			continue
		}
		n++
		s.AskStatus(id, func(status PeerStatus, err error) {
			wait := GateWait{ID: id}
			if err == nil {
				wait.Knows = max(status.Knows, firstVersion)
			}
			answers <- wait
		})
	}
	var waits []GateWait
	for range n {
		if w := <-answers; w.Knows < int(s.cfg.commandVersion) {
			waits = append(waits, w)
		}
	}
	slices.SortFunc(waits, func(a, b GateWait) int { return cmp.Compare(a.ID, b.ID) })
	return waits
}

// Gate is how far the members of the cluster have agreed on commands.
type Gate struct {
	Version int        // the latest version that is written
	Waits   []GateWait // members that keep the leader from raising it, as the leader says
}

// Gate tells how the gate stands.
func (s *Store) Gate() Gate {
	g := Gate{Version: int(s.fsm.current.Load().gate)}
	if waits := s.gateWaits.Load(); waits != nil {
		g.Waits = *waits
	}
	return g
}

// Admits tells whether a node may be a member that knows commands up to a version.
func (s *Store) Admits(knows int) error {
	if gate := int(s.fsm.current.Load().gate); knows < gate {
		return fmt.Errorf("%w: the members of this cluster have agreed on commands of version %d, and the node's program knows %d: start the node with the program that the members run, or a newer one",
			errTooOld, gate, knows)
	}
	return nil
}
