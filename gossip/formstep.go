package gossip

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"
)

const (
	formSettle     = 150 * time.Millisecond // quiet time after enough have met, for more to show
	formResend     = 300 * time.Millisecond // first; grows to formResendMost
	formResendMost = 5 * time.Second
	formGiveUp     = 5 * time.Second        // an unanswered proposal is aborted
	formAway       = 2 * time.Second        // a member or coordinator out of touch for that long counts as away
	formShun       = 10 * time.Second       // a member that did not answer is not proposed again
	formRetry      = 200 * time.Millisecond // pause after an abort, times the attempt
	formBlocked    = 10 * time.Second       // then the operator is told what is waited for
	formPatience   = 15 * time.Second       // for a grant of a cluster that is known to live
)

// former decides formation for one node: events in, actions out. It has no clock,
// no randomness and no I/O; the executor in formrun.go makes no choices.
//
// Safety rests on three rules. A node is bound to at most one proposal, durably,
// before it says so. A cluster is founded, durably, only once every named node was
// bound to the proposal. A node is released only when the proposal can no longer
// be founded: its coordinator has durably aborted it, or a named node has durably
// refused ever to be bound to it. So two clusters never share a node, and each has
// at least expect of them.
type former struct {
	self     string
	expect   int
	settings []byte
	digest   [8]byte
	request  []byte
	quiet    time.Duration // how long a node that expects nobody else looks around first
	st       formState

	view formView
	met  string // the cluster that this node found, or belongs to already

	// As a coordinator.
	begun      time.Time            // the first step
	candidates string               // who could be proposed, to see it change
	settled    time.Time            // since when candidates is unchanged
	promises   map[string][]byte    // requests of those who promised
	proposedAt time.Time            // of the current proposal, in this process
	shunned    map[string]time.Time // until when not to propose these
	attempts   int
	retryAt    time.Time
	calling    bool // Founder.Found runs
	foundAt    time.Time
	foundFails int

	// As a member.
	promisedAt time.Time
	accepting  bool // Founder.Accept runs
	grant      []byte
	acceptAt   time.Time

	resendAt time.Time
	resend   time.Duration
	awayOf   map[string]time.Time // since when a node that matters is out of touch
	told     map[string]bool      // what was logged once
}

// formView is what the ring shows.
type formView struct {
	blank    map[string]formStance // other living nodes that want to form
	alive    map[string]bool       // all other living nodes
	clusters map[string][]string   // living members by cluster
}

// formInput is one event. Exactly one of the pointers is set, or none when only
// time has passed.
type formInput struct {
	now   time.Time
	rnd   float64 // in [0, 1)
	fresh string  // an unused cluster id
	view  *formView
	msg   *formMsg
	found *foundResult
	taken *acceptResult
}

type foundResult struct {
	id     proposalID
	grants map[string][]byte
	err    error
}

type acceptResult struct {
	id  proposalID
	err error
}

// formOutput is what to do, in this order: persist, log, send, call; then wait
// for an event or for wake (zero: no time).
type formOutput struct {
	now      time.Time
	persist  bool
	sends    []formSend
	found    *proposal // call Founder.Found with requests
	requests map[string][]byte
	accept   *proposal // call Founder.Accept with grant
	grant    []byte
	outcome  *Outcome
	logs     []formLog
	wake     time.Time
}

type formSend struct {
	to  string
	msg formMsg
}

type formLog struct {
	level slog.Level
	text  string
	attrs []any
}

func newFormer(self string, expect int, settings, request []byte, st formState, cluster string) *former {
	f := &former{self: self, expect: expect, settings: settings, digest: stanceDigest(settings), request: request, st: st.clone(),
		met: cluster, promises: map[string][]byte{}, shunned: map[string]time.Time{}, awayOf: map[string]time.Time{}, told: map[string]bool{}}
	if f.st.Refused == nil {
		f.st.Refused = map[string]uint64{}
	}
	if f.st.Request != nil {
		f.request = f.st.Request
	}
	return f
}

func stanceDigest(settings []byte) (d [8]byte) {
	sum := sha256.Sum256(settings)
	copy(d[:], sum[:])
	return d
}

// stance is what this node says in the ring; nil when it does not form.
func (f *former) stance() *formStance {
	if f.st.Outcome != nil || f.st.Founding != nil || f.met != "" {
		return nil
	}
	s := &formStance{expect: f.expect, settings: f.digest}
	if p := f.st.Promised; p != nil && p.ID.Coordinator != f.self {
		s.bound = p.ID.Coordinator
	}
	return s
}

func (f *former) step(in formInput) formOutput {
	out := formOutput{now: in.now}
	if f.begun.IsZero() {
		f.begun = in.now
	}
	switch {
	case in.view != nil:
		f.view = *in.view
	case in.msg != nil:
		f.receive(in, *in.msg, &out)
	case in.found != nil:
		f.onFound(in, *in.found, &out)
	case in.taken != nil:
		f.onAccepted(in, *in.taken, &out)
	}
	f.advance(in, &out)
	return out
}

// advance does whatever the state and the time call for.
func (f *former) advance(in formInput, out *formOutput) {
	for {
		p := f.st.Promised
		switch {
		case f.st.Founding != nil:
			f.deliver(in, out)
			if f.st.Outcome == nil {
				f.acceptOwn(in, out)
			}
			return
		case f.st.Outcome != nil || f.met != "":
			return
		case p == nil:
			if !f.consider(in, out) {
				return
			}
		case p.ID.Coordinator == f.self:
			if !f.coordinate(in, out) {
				return
			}
		default:
			f.attend(in, out)
			return
		}
	}
}

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

// acceptOwn takes the coordinator's own grant.
func (f *former) acceptOwn(in formInput, out *formOutput) {
	if f.accepting || out.before(f.acceptAt) {
		return
	}
	f.accepting = true
	p := f.st.Founding.Proposal
	f.grant = f.st.Founding.Grants[f.self]
	out.accept, out.grant = &p, f.grant
}

// deliver sends grants that were not acknowledged to those in reach.
func (f *former) deliver(in formInput, out *formOutput) {
	var to []string
	for _, m := range f.st.Founding.Proposal.Members {
		if _, ok := f.st.Founding.Grants[m]; ok && m != f.self && f.view.alive[m] {
			to = append(to, m)
		}
	}
	if len(to) > 0 && f.dueToResend(in, out) {
		for _, m := range to {
			f.sendGrant(m, out)
		}
	}
}

func (f *former) sendGrant(to string, out *formOutput) {
	fd := f.st.Founding
	if g, ok := fd.Grants[to]; ok {
		out.send(to, formMsg{Kind: msgGrant, From: f.self, ID: fd.Proposal.ID, Proposal: &fd.Proposal, Payload: g})
	}
}

// attend is the step of a node that is bound to another's proposal.
func (f *former) attend(in formInput, out *formOutput) {
	p := f.st.Promised
	if f.promisedAt.IsZero() {
		f.promisedAt, f.resend = in.now, formResend
		f.resendAt = in.now.Add(f.resend)
	}
	if f.grant != nil {
		if !f.accepting && !out.before(f.acceptAt) {
			f.accepting = true
			out.accept, out.grant = p, f.grant
		}
		return
	}
	away := f.away(p.ID.Coordinator, in, out)
	if len(f.view.clusters[p.ClusterID]) > 0 {
		if away || !out.before(f.promisedAt.Add(formPatience)) {
			// The cluster lives and this node is a founder of it; only the grant is
			// stuck. Whoever lives there can let it in as well. The promise stays.
			out.log(slog.LevelInfo, "the coordinator is away; entering its cluster through another member",
				"cluster", p.ClusterID, "coordinator", p.ID.Coordinator)
			f.meetCluster(p.ClusterID, out)
			return
		}
	}
	if !out.before(f.promisedAt.Add(formBlocked)) {
		f.once(out, "blocked "+p.ID.String(), slog.LevelWarn,
			"this node has promised to found a cluster and waits for the coordinator, which alone knows whether it was founded. "+
				"Start it again; if it is lost for good, give the promise up with \"kontiki reset --formation\" on every node that says this",
			"coordinator", p.ID.Coordinator, "members", strings.Join(p.Members, " "))
	}
	if !f.dueToResend(in, out) {
		return
	}
	ask := formMsg{Kind: msgAsk, From: f.self, ID: p.ID}
	if !away {
		out.send(p.ID.Coordinator, ask)
		return
	}
	for _, m := range p.Members {
		if m != f.self && m != p.ID.Coordinator && f.view.alive[m] {
			out.send(m, ask)
		}
	}
}

func (f *former) onAccepted(in formInput, r acceptResult, out *formOutput) {
	f.accepting = false
	p := f.st.Promised
	if f.st.Founding != nil {
		p = &f.st.Founding.Proposal
	}
	if p == nil || p.ID != r.id || f.st.Outcome != nil {
		return
	}
	if r.err != nil {
		f.acceptAt = in.now.Add(time.Second)
		out.log(slog.LevelError, "taking up the membership in the new cluster failed; it is tried again", "error", r.err)
		return
	}
	f.st.Outcome = &entered{Proposal: *p, Grant: f.grant}
	if f.st.Founding != nil {
		delete(f.st.Founding.Grants, f.self)
		f.dropFounding()
	}
	out.persist = true
	if p.ID.Coordinator != f.self {
		out.send(p.ID.Coordinator, formMsg{Kind: msgGranted, From: f.self, ID: p.ID})
	}
	out.outcome = f.st.Outcome.outcome()
}

// entered tells whether this node is a member by that proposal.
func (f *former) entered(id proposalID) bool {
	return f.st.Outcome != nil && f.st.Outcome.Proposal.ID == id
}

func (e *entered) outcome() *Outcome {
	return &Outcome{Kind: Founded, ClusterID: e.Proposal.ClusterID, Members: e.Proposal.Members, Settings: e.Proposal.Settings, Grant: e.Grant}
}

// dropFounding forgets the grants once all hold theirs.
func (f *former) dropFounding() {
	if len(f.st.Founding.Grants) == 0 && f.st.Outcome != nil {
		f.st.Founding = nil
	}
}

// away tells whether a node has been out of touch for formAway.
func (f *former) away(id string, in formInput, out *formOutput) bool {
	if f.view.alive[id] {
		delete(f.awayOf, id)
		return false
	}
	since, ok := f.awayOf[id]
	if !ok {
		since = in.now
		f.awayOf[id] = since
	}
	return !out.before(since.Add(formAway))
}

// dueToResend tells whether it is time to send again, and sets the next time.
func (f *former) dueToResend(in formInput, out *formOutput) bool {
	if out.before(f.resendAt) {
		return false
	}
	f.resend = min(max(f.resend*3/2, formResend), formResendMost)
	f.resendAt = in.now.Add(f.resend)
	out.before(f.resendAt)
	return true
}

func (f *former) once(out *formOutput, key string, level slog.Level, text string, attrs ...any) {
	if !f.told[key] && len(f.told) < maxMembers {
		f.told[key] = true
		out.log(level, text, attrs...)
	}
}

// before tells whether t is yet to come, and if so asks to be woken then.
func (o *formOutput) before(t time.Time) bool {
	if !o.now.Before(t) {
		return false
	}
	if o.wake.IsZero() || t.Before(o.wake) {
		o.wake = t
	}
	return true
}

func (o *formOutput) send(to string, m formMsg) { o.sends = append(o.sends, formSend{to, m}) }

func (o *formOutput) log(level slog.Level, text string, attrs ...any) {
	o.logs = append(o.logs, formLog{level, text, attrs})
}

func (f *former) wants(p *proposal) bool {
	return p.Expect == f.expect && bytes.Equal(p.Settings, f.settings)
}
