package gossip

import (
	"log/slog"
	"strings"
	"time"
)

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
