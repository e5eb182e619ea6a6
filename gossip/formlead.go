package gossip

import (
	"cmp"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"
)

// consider is the step of a free node: enter a cluster that is there, or propose
// one if it is this node's turn. It reports whether the state changed.
func (f *former) consider(in formInput, out *formOutput) bool {
	if f.meet(out) {
		return true
	}
	free := f.candidatesNow(out)
	if key := strings.Join(free, " "); key != f.candidates {
		f.candidates, f.settled = key, in.now
	}
	if len(free) < f.expect || free[0] != f.self {
		return false
	}
	free = slices.DeleteFunc(free, func(id string) bool {
		until, ok := f.shunned[id]
		if ok && out.before(until) {
			return true
		}
		delete(f.shunned, id)
		return false
	})
	start := later(f.retryAt, f.settled)
	if f.expect > 1 {
		start = later(start, f.settled.Add(formSettle))
	} else {
		start = later(start, f.begun.Add(f.quiet))
	}
	if len(free) < f.expect || out.before(start) {
		return false
	}
	f.propose(in, free[:f.expect], out)
	return true
}

// candidatesNow returns who could be proposed, this node included, in order, and
// says who could not because it wants another cluster.
func (f *former) candidatesNow(out *formOutput) []string {
	free := []string{f.self}
	for _, id := range slices.Sorted(maps.Keys(f.view.blank)) {
		s := f.view.blank[id]
		switch {
		case s.expect != f.expect:
			f.once(out, fmt.Sprintf("expects %s %d", id, s.expect), slog.LevelError,
				"a blank node expects another number of nodes; it is left out. Start all nodes with the same --expect",
				"id", id, "itsExpect", s.expect, "ownExpect", f.expect)
		case s.settings != f.digest:
			f.once(out, fmt.Sprintf("settings %s %x", id, s.settings), slog.LevelError,
				"a blank node has other cluster settings; it is left out. Start all nodes with the same cluster settings",
				"id", id)
		case s.bound == "":
			free = append(free, id)
		}
	}
	slices.Sort(free)
	return free
}

// meet ends formation if a living cluster is in sight.
func (f *former) meet(out *formOutput) bool {
	if len(f.view.clusters) == 0 {
		return false
	}
	ids := slices.SortedFunc(maps.Keys(f.view.clusters), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(f.view.clusters[b]), len(f.view.clusters[a])), cmp.Compare(a, b))
	})
	if len(ids) > 1 {
		out.log(slog.LevelWarn, "several clusters live under this join secret; this node turns to the largest in sight",
			"cluster", ids[0], "clusters", strings.Join(ids, " "))
	}
	f.meetCluster(ids[0], out)
	return true
}

func (f *former) meetCluster(id string, out *formOutput) {
	f.met = id
	out.outcome = &Outcome{Kind: Met, ClusterID: id, Members: f.view.clusters[id]}
}

func (f *former) propose(in formInput, members []string, out *formOutput) {
	f.st.Number++
	f.st.Promised = &proposal{ID: proposalID{f.self, f.st.Number}, ClusterID: in.fresh, Expect: f.expect,
		Settings: f.settings, Members: slices.Clone(members)}
	f.st.Request = f.request
	out.persist = true
	out.log(slog.LevelInfo, "proposing to found a cluster", "members", strings.Join(members, " "))
	f.proposedAt, f.resendAt = time.Time{}, time.Time{}
	clear(f.promises)
}

// coordinate is the step of a coordinator whose proposal is open.
func (f *former) coordinate(in formInput, out *formOutput) bool {
	p := f.st.Promised
	if f.calling {
		return false
	}
	f.promises[f.self] = f.request
	if f.proposedAt.IsZero() { // just made, or after a restart
		f.proposedAt, f.resendAt, f.resend = in.now, in.now, 0
	}
	if len(f.promises) < len(p.Members) || f.foundFails > 0 {
		if why := f.reasonToAbort(in, out); why != "" {
			f.abort(in, why, out)
			return true
		}
	}
	if len(f.promises) == len(p.Members) {
		if out.before(f.foundAt) {
			return false
		}
		f.calling = true
		out.found, out.requests = p, maps.Clone(f.promises)
		return false
	}
	if f.dueToResend(in, out) {
		for _, m := range p.Members {
			if _, ok := f.promises[m]; !ok {
				out.send(m, formMsg{Kind: msgPropose, From: f.self, ID: p.ID, Proposal: p})
			}
		}
	}
	return false
}

func (f *former) reasonToAbort(in formInput, out *formOutput) string {
	p := f.st.Promised
	if len(f.view.clusters) > 0 {
		return "a cluster is there"
	}
	for _, id := range slices.Sorted(maps.Keys(f.view.blank)) {
		s := f.view.blank[id]
		if id < f.self && s.bound == "" && s.expect == f.expect && s.settings == f.digest {
			return fmt.Sprintf("node %s has a lower id and coordinates", id)
		}
	}
	for _, m := range p.Members {
		if _, ok := f.promises[m]; ok {
			continue
		}
		if f.away(m, in, out) {
			return fmt.Sprintf("node %s went away before it promised", m)
		}
		if !out.before(f.proposedAt.Add(formGiveUp)) {
			f.shunned[m] = in.now.Add(formShun)
			return fmt.Sprintf("node %s does not answer", m)
		}
	}
	return ""
}

// abort gives the own proposal up for ever.
func (f *former) abort(in formInput, why string, out *formOutput) {
	p := f.st.Promised
	f.st.Promised = nil
	out.persist = true
	out.log(slog.LevelInfo, "gave up a proposal to found a cluster", "proposal", p.ID.String(), "reason", why)
	for _, m := range p.Members {
		if m != f.self {
			out.send(m, formMsg{Kind: msgAbort, From: f.self, ID: p.ID})
		}
	}
	f.attempts++
	f.retryAt = in.now.Add(time.Duration((0.5 + in.rnd) * float64(min(f.attempts, 10)) * float64(formRetry)))
	f.foundFails, f.foundAt = 0, time.Time{}
	clear(f.promises)
}

func (f *former) onFound(in formInput, r foundResult, out *formOutput) {
	f.calling = false
	p := f.st.Promised
	if p == nil || p.ID != r.id {
		return
	}
	if r.err == nil {
		for _, m := range p.Members {
			if r.grants[m] == nil {
				r.err = fmt.Errorf("there is no grant for node %s", m)
			}
		}
	}
	if r.err != nil {
		f.foundFails++
		f.foundAt = in.now.Add(time.Duration(min(f.foundFails, 10)) * time.Second)
		out.log(slog.LevelError, "founding the cluster failed; it is tried again", "error", r.err)
		return
	}
	f.st.Founding = &founding{Proposal: *p, Grants: maps.Clone(r.grants)}
	out.persist = true
	out.log(slog.LevelInfo, "founded the cluster", "cluster", p.ClusterID, "members", strings.Join(p.Members, " "))
	f.resendAt, f.resend = in.now, 0
}
