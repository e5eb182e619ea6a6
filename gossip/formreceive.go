package gossip

import (
	"log/slog"

	"kontiki/gossip/internal/seeded"
)

// receive takes one message.
func (f *former) receive(in formInput, m formMsg, out *formOutput) {
	switch m.Kind {
	case msgPropose:
		f.onPropose(in, m, out)
	case msgPromise:
		f.onPromise(m, out)
	case msgRefuse:
		f.onRefuse(in, m, out)
	case msgNever:
		f.onNever(in, m, out)
	case msgGrant:
		f.onGrant(m, out)
	case msgGranted:
		if fd := f.st.Founding; fd != nil && fd.Proposal.ID == m.ID && fd.Grants[m.From] != nil {
			delete(fd.Grants, m.From)
			f.dropFounding()
			out.persist = true
		}
	case msgAsk:
		f.onAsk(m, out)
	case msgAbort:
		if p := f.st.Promised; p != nil && p.ID == m.ID && m.From == m.ID.Coordinator && m.From != f.self {
			f.release("its coordinator gave it up", out)
		}
	}
}

func (f *former) onPropose(in formInput, m formMsg, out *formOutput) {
	p := m.Proposal
	refuse := func(why refusal, other string) {
		out.send(m.From, formMsg{Kind: msgRefuse, From: f.self, ID: m.ID, Reason: why, Other: other})
	}
	held := f.st.Promised
	switch {
	case m.From == f.self || !p.names(f.self):
		return
	case f.entered(p.ID):
		out.send(m.From, formMsg{Kind: msgGranted, From: f.self, ID: m.ID})
	case held != nil && held.ID == p.ID:
		out.send(m.From, formMsg{Kind: msgPromise, From: f.self, ID: m.ID, Payload: f.request})
	case p.ID.Number <= f.st.Refused[p.ID.Coordinator]:
		out.send(m.From, formMsg{Kind: msgNever, From: f.self, ID: m.ID})
	case f.st.Outcome != nil || f.st.Founding != nil || f.met != "" || len(f.view.clusters) > 0:
		refuse(refuseMember, "")
	case !f.wants(p):
		f.once(out, "proposal differs "+m.From, slog.LevelError,
			"a node proposes a cluster with other settings than this node's; this node does not take part. "+
				"Start all nodes with the same --expect and cluster settings",
			"id", m.From, "itsExpect", p.Expect, "ownExpect", f.expect)
		refuse(refuseSettings, "")
	case held != nil && !seeded.TwoPromises:
		refuse(refuseBusy, held.ID.Coordinator)
	default:
		f.st.Promised, f.st.Request = p, f.request
		out.persist = true
		f.promisedAt, f.resend = in.now, formResend
		f.resendAt = in.now.Add(f.resend)
		f.grant = nil
		out.log(slog.LevelInfo, "promised to found a cluster", "proposal", p.ID.String(), "coordinator", m.From)
		out.send(m.From, formMsg{Kind: msgPromise, From: f.self, ID: m.ID, Payload: f.request})
	}
}

func (f *former) onPromise(m formMsg, out *formOutput) {
	if m.ID.Coordinator != f.self {
		return
	}
	p := f.st.Promised
	switch {
	case f.st.Founding != nil && f.st.Founding.Proposal.ID == m.ID:
		f.sendGrant(m.From, out)
	case f.entered(m.ID): // it promised long ago
	case p != nil && p.ID == m.ID:
		if p.names(m.From) && !f.calling {
			f.promises[m.From] = m.Payload
		}
	default:
		f.answerAborted(m, out)
	}
}

// answerAborted tells a node about an own proposal that is neither open nor founded.
func (f *former) answerAborted(m formMsg, out *formOutput) {
	if m.ID.Number <= f.st.Number {
		out.send(m.From, formMsg{Kind: msgAbort, From: f.self, ID: m.ID})
		return
	}
	f.once(out, "unknown "+m.ID.String(), slog.LevelError,
		"a node is bound to a proposal that this node does not remember; was this node's data directory restored from a copy?",
		"id", m.From, "proposal", m.ID.String())
}

func (f *former) onRefuse(in formInput, m formMsg, out *formOutput) {
	p := f.st.Promised
	if p == nil || p.ID != m.ID || m.ID.Coordinator != f.self || f.calling || f.st.Founding != nil || !p.names(m.From) {
		return
	}
	if _, promised := f.promises[m.From]; promised {
		return // an older message
	}
	switch m.Reason {
	case refuseBusy:
		// A higher coordinator gives way once it sees this node; a lower one is
		// given way to.
		if m.Other < f.self {
			f.abort(in, "node "+m.From+" is bound to the lower coordinator "+m.Other, out)
		}
	case refuseSettings:
		f.shunned[m.From] = in.now.Add(formShun)
		f.abort(in, "node "+m.From+" wants other cluster settings", out)
	case refuseMember:
		f.shunned[m.From] = in.now.Add(formShun)
		f.abort(in, "node "+m.From+" belongs to a cluster", out)
	}
}

// onNever takes the proof that a named node never was and never will be bound:
// the proposal cannot be founded.
func (f *former) onNever(in formInput, m formMsg, out *formOutput) {
	p := f.st.Promised
	if p == nil || p.ID != m.ID || !p.names(m.From) || f.st.Founding != nil || f.st.Outcome != nil {
		return
	}
	if m.ID.Coordinator != f.self {
		f.release("node "+m.From+" will never promise it", out)
		return
	}
	if !f.calling {
		f.abort(in, "node "+m.From+" will never promise it", out)
	}
}

// release frees this node from a proposal that cannot be founded.
func (f *former) release(why string, out *formOutput) {
	if f.st.Outcome != nil {
		return
	}
	p := f.st.Promised
	f.st.Promised, f.grant = nil, nil
	f.refuseForEver(p.ID)
	out.persist = true
	out.log(slog.LevelInfo, "freed from a promise to found a cluster", "proposal", p.ID.String(), "reason", why)
}

func (f *former) refuseForEver(id proposalID) {
	f.st.Refused[id.Coordinator] = max(f.st.Refused[id.Coordinator], id.Number)
}

func (f *former) onAsk(m formMsg, out *formOutput) {
	p := f.st.Promised
	if m.ID.Coordinator == f.self {
		switch {
		case f.st.Founding != nil && f.st.Founding.Proposal.ID == m.ID:
			f.sendGrant(m.From, out)
		case f.entered(m.ID): // and everybody has said to hold the grant
		case p != nil && p.ID == m.ID:
			out.send(m.From, formMsg{Kind: msgPropose, From: f.self, ID: p.ID, Proposal: p})
		default:
			f.answerAborted(m, out)
		}
		return
	}
	// A fellow asks because the coordinator is away.
	if p != nil && p.ID == m.ID || f.entered(m.ID) {
		return // it was promised: nothing is proven
	}
	if m.ID.Number > f.st.Refused[m.ID.Coordinator] {
		if len(f.st.Refused) >= maxMembers {
			return
		}
		f.refuseForEver(m.ID)
		out.persist = true
	}
	out.send(m.From, formMsg{Kind: msgNever, From: f.self, ID: m.ID})
}

func (f *former) onGrant(m formMsg, out *formOutput) {
	p := f.st.Promised
	switch {
	case f.entered(m.ID),
		f.met != "" && p != nil && p.ID == m.ID && f.met == p.ClusterID:
		out.send(m.From, formMsg{Kind: msgGranted, From: f.self, ID: m.ID})
	case p != nil && p.ID == m.ID && m.From == m.ID.Coordinator && f.met == "" && f.grant == nil:
		f.grant = m.Payload
		if f.grant == nil {
			f.grant = []byte{}
		}
	}
}
