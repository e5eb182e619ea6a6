package raftstore

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"
)

// The leader compares the digests of all replicas at one log index, some time after
// something was written; an idle cluster compares nothing. Those that hold something else
// than the majority are told, and refill themselves; so is the leader, which gives its
// leadership away first.

// digestAnswer is a replica's digest at an index that it was asked for.
type digestAnswer struct {
	Version int
	Digest  uint64
	Known   bool // false: it is past that index, and has forgotten
}

type digestQuestion struct{ Index uint64 }

// objection tells a replica that it is wrong.
type objection struct{ Index, Digest uint64 }

// verdict is what a comparison came to.
type verdict struct {
	right   uint64
	wrong   []string // members that hold something else
	unclear bool     // members differ, and none of what they hold is the majority's
}

// judge finds who is wrong. Right is what more than half of all voters hold, or, if
// there is no such thing, more than half of all members.
func judge(members []Member, digests map[string]uint64) verdict {
	var voters, all []string
	for _, m := range members {
		all = append(all, m.ID)
		if m.Voter {
			voters = append(voters, m.ID)
		}
	}
	for _, group := range [][]string{voters, all} {
		count := map[uint64]int{}
		for _, id := range group {
			if d, ok := digests[id]; ok {
				if count[d]++; count[d] > len(group)/2 {
					return verdict{right: d, wrong: others(digests, d)}
				}
			}
		}
	}
	differ := len(digests) > 1 && len(slices.Compact(slices.Sorted(maps.Values(digests)))) > 1
	return verdict{unclear: differ}
}

// others are the members whose digest is not right.
func others(digests map[string]uint64, right uint64) (ids []string) {
	for _, id := range slices.Sorted(maps.Keys(digests)) {
		if digests[id] != right {
			ids = append(ids, id)
		}
	}
	return ids
}

// runComparisons compares while this node leads.
func (s *Store) runComparisons() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	agreed := map[string]uint64{}
	for {
		l, led := s.leadership.get()
		st, changed := s.fsm.snapshotState()
		due := l.Self && len(s.unagreed(agreed, st.index)) > 0
		timer.Stop()
		if due {
			timer.Reset(s.cfg.CompareEvery)
			changed = nil // it is looked at when the time has come
		}
		if !l.Self {
			changed = nil
			s.unclear.Store(nil)
		}
		select {
		case <-led:
			clear(agreed)
		case <-changed:
		case <-timer.C:
			s.compare(l.Term, agreed)
		case <-s.closing:
			return
		}
	}
}

// unagreed are the members that have not agreed with the leader up to an index.
func (s *Store) unagreed(agreed map[string]uint64, index uint64) (out []Member) {
	for _, m := range s.Members() {
		if agreed[m.ID] < index {
			out = append(out, m)
		}
	}
	return out
}

// compare asks all members and acts on the answers. agreed is brought up to date.
func (s *Store) compare(term uint64, agreed map[string]uint64) {
	ctx, cancel := context.WithTimeout(s.life, attemptTime)
	defer cancel()
	st := s.fsm.current.Load()
	members := s.Members()
	digests := s.askDigests(ctx, members, st.index)
	if now, leads := s.leadsIn(); !leads || now != term {
		return
	}
	v := judge(members, digests)
	for id, d := range digests {
		if !v.unclear && d == digests[s.cfg.NodeID] && !slices.Contains(v.wrong, id) {
			agreed[id] = st.index
		}
	}
	switch {
	case v.unclear:
		s.figures.undecided.Add(1)
		s.tellUnclear(st.index, digests)
		return
	case len(v.wrong) == 0 && len(digests) > 1:
		s.figures.agreed.Add(1)
	case len(v.wrong) > 0:
		s.figures.differed.Add(1)
		s.log.Error("replicas differ from the majority and are told to refill themselves", "index", st.index, "members", v.wrong)
	}
	s.unclear.Store(nil)
	if slices.Contains(v.wrong, s.cfg.NodeID) { // first: nobody is to refill itself from this one
		s.hearObjection(objection{st.index, v.right})
	}
	tell, told := context.WithTimeout(s.life, attemptTime) // asking may have used up its time
	defer told()
	for _, id := range v.wrong {
		if err := s.object(tell, id, objection{st.index, v.right}); err != nil {
			s.log.Warn("a replica that differs does not hear of it; it is told again", "member", id, "error", err)
		}
	}
}

func (s *Store) object(ctx context.Context, id string, o objection) error {
	if id == s.cfg.NodeID {
		s.hearObjection(o)
		return nil
	}
	return s.caller.call(ctx, id, callObject, o, &struct{}{})
}

// hearObjection puts this replica in doubt, unless it was refilled meanwhile.
func (s *Store) hearObjection(o objection) {
	if own, known := s.fsm.digestAt(o.Index); known && own != o.Digest {
		s.fsm.putInDoubt(fmt.Errorf("at log entry %d it holds %016x, and most others %016x", o.Index, own, o.Digest), false)
	}
}

// tellUnclear says that nobody knows who is right. A replica whose memory was changed
// can find that out by itself: all are asked to look now.
func (s *Store) tellUnclear(index uint64, digests map[string]uint64) {
	ctx, cancel := context.WithTimeout(s.life, attemptTime)
	defer cancel()
	groups := map[uint64][]string{}
	for _, id := range slices.Sorted(maps.Keys(digests)) {
		groups[digests[id]] = append(groups[digests[id]], id)
	}
	text := fmt.Sprintf("at log entry %d the replicas hold different things, and none the majority's:", index)
	for _, d := range slices.SortedFunc(maps.Keys(groups), func(a, b uint64) int {
		return cmp.Or(cmp.Compare(len(groups[b]), len(groups[a])), cmp.Compare(a, b))
	}) {
		text += fmt.Sprintf(" %016x %v", d, groups[d])
	}
	if s.unclear.Swap(&text) == nil {
		s.log.Error("replicas differ, and there is no majority to say which is right", "index", index, "digests", text)
	}
	for id := range digests {
		if id == s.cfg.NodeID {
			s.spawn(s.scrubNow)
			continue
		}
		if err := s.caller.call(ctx, id, callScrub, struct{}{}, &struct{}{}); err != nil {
			s.log.Warn("a replica was not asked to look at itself", "member", id, "error", err)
		}
	}
}

// askDigests asks all members at once, this one included. Who does not answer in time,
// has forgotten, or hashes otherwise, has no digest.
func (s *Store) askDigests(ctx context.Context, members []Member, index uint64) map[string]uint64 {
	type told struct {
		id string
		digestAnswer
		err error
	}
	answers := make(chan told, len(members))
	asked := 0
	for _, m := range members {
		if s.spawn(func() {
			a, err := s.askDigest(ctx, m.ID, index)
			answers <- told{m.ID, a, err}
		}) {
			asked++
		}
	}
	digests := map[string]uint64{}
	for range asked {
		a := <-answers
		if a.err == nil && a.Known && a.Version == digestVersion {
			digests[a.id] = a.Digest
		}
	}
	return digests
}

func (s *Store) askDigest(ctx context.Context, id string, index uint64) (a digestAnswer, err error) {
	if id == s.cfg.NodeID {
		return s.digestHere(ctx, index)
	}
	err = s.caller.call(ctx, id, callDigest, digestQuestion{index}, &a)
	return a, err
}

// digestHere waits until this replica has applied an index. One in doubt has no say.
func (s *Store) digestHere(ctx context.Context, index uint64) (digestAnswer, error) {
	if _, err := s.fsm.waitFor(ctx, func(st *state) bool { return st.index >= index }); err != nil {
		return digestAnswer{}, err
	}
	d, known := s.fsm.digestAt(index)
	return digestAnswer{digestVersion, d, known}, nil
}
