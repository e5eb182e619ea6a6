package gossip

import (
	"bytes"
	"crypto/sha256"
	"log/slog"
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
