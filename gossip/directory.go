package gossip

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// maxMembers bounds what a flood of authenticated but odd peers can make a node
// remember.
const maxMembers = 4096

// forgetBlank is how long a dead node that never belonged to a cluster is kept.
const forgetBlank = 10 * time.Minute

// entry is a member and what only the ring needs to know of it.
type entry struct {
	Member
	form *formStance
	// leaving is set when the member announced that its next silence is intended.
	leaving bool
	// met tells that memberlist has shown it since this node last entered the
	// ring; else due is since when it is waited for.
	met bool
	due time.Time
}

// directory is the table of members by node id: a plain value without clock,
// locks or I/O. Ring guards it.
type directory struct {
	self    entry
	members map[string]*entry
	// ports maps memberlist's names to cluster ports, for streams to members.
	ports map[string]uint16
	// foreign maps the id of a node of another cluster, or epoch, to its allegiance.
	foreign map[string]string
	// removed are the nodes that an operator removed; selfRemoved tells that this
	// node is one of them, as another member said.
	removed     map[string]bool
	selfRemoved bool
}

func newDirectory(self entry) *directory {
	return &directory{self: self, members: map[string]*entry{}, ports: map[string]uint16{}, foreign: map[string]string{}}
}

// sighting is one member as memberlist shows it.
type sighting struct {
	id   string
	life uint64
	addr netip.Addr
	meta metadata
}

// admits tells whether a node of that allegiance may be in the ring with this one.
func (d *directory) admits(allegiance string) bool {
	return allegiance == "" || d.self.ClusterID == "" || allegiance == d.self.allegiance()
}

// refuse notes a node of another cluster, or epoch; it reports whether that is news.
func (d *directory) refuse(id, allegiance string) bool {
	if d.foreign[id] == allegiance {
		return false
	}
	if len(d.foreign) >= maxMembers {
		return false
	}
	d.foreign[id] = allegiance
	delete(d.members, id)
	return true
}

// alive takes a sighting of a living member. It reports what changed: nothing, the
// member's data, or its state.
func (d *directory) alive(s sighting, now time.Time) (changed, joined bool) {
	e := d.members[s.id]
	if e == nil {
		if len(d.members) >= maxMembers {
			return false, false
		}
		e = &entry{}
		d.members[s.id] = e
	} else if s.life < e.Incarnation {
		return false, false // an earlier life that memberlist has not given up yet
	}
	delete(d.foreign, s.id)
	before := *e
	e.Member = Member{
		ID: s.id, Name: s.meta.name, Addr: s.addr, ClusterPort: s.meta.clusterPort, ClusterID: s.meta.clusterID, Epoch: s.meta.epoch,
		Zone: s.meta.zone, Version: s.meta.version, KeyStep: s.meta.keyStep,
		Incarnation: s.life, State: StateAlive, Since: before.Since,
	}
	e.form, e.leaving, e.met = s.meta.form, s.meta.leaving, true
	joined = before.State != StateAlive || before.Incarnation != s.life
	if joined {
		e.Since = now
	}
	return joined || before.Member != e.Member || !before.form.equal(e.form), joined
}

func (f *formStance) equal(o *formStance) bool {
	if f == nil || o == nil {
		return f == o
	}
	return *f == *o
}

// gone takes the end of one life of a member.
func (d *directory) gone(id string, life uint64, now time.Time) (Member, bool) {
	e := d.members[id]
	if e == nil || e.Incarnation != life || e.State == StateDead || e.State == StateLeft {
		return Member{}, false
	}
	e.State, e.Since = StateDead, now
	if e.leaving {
		e.State = StateLeft
	}
	return e.Member, true
}

// learn takes what a file or another node remembers of a member. Only a later
// life than the known one counts, and it counts as not yet met.
func (d *directory) learn(m Member, now time.Time) bool {
	if m.ID == d.self.ID || !d.admits(m.allegiance()) || d.foreign[m.ID] != "" || d.removed[m.ID] {
		return false
	}
	e := d.members[m.ID]
	if e != nil {
		if e.State == StateAlive {
			return false // memberlist shows it, and will show a later life, too
		}
		entered := e.ClusterID == "" && m.ClusterID != "" && m.Incarnation == e.Incarnation
		if m.Incarnation <= e.Incarnation && !entered {
			return false
		}
	} else {
		if len(d.members) >= maxMembers {
			return false
		}
		e = &entry{}
		d.members[m.ID] = e
	}
	m.State, m.Since, m.Self = StateUnknown, now, false
	*e = entry{Member: m, due: now}
	return true
}

// reborn is called when this node enters the ring anew: members keep their state,
// but have to be met again, by the same deadline as remembered ones.
func (d *directory) reborn(now time.Time) {
	for _, e := range d.members {
		if e.State == StateAlive || e.State == StateUnknown {
			e.met, e.due = false, now
		}
	}
	clear(d.ports)
}

// expire turns members that were not met for long enough into dead ones, and
// forgets dead nodes that never belonged to a cluster. next is when it has to be
// called again, zero for never.
func (d *directory) expire(now time.Time, absent time.Duration) (changed []Member, next time.Time) {
	soon := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	for id, e := range d.members {
		switch {
		case !e.met && (e.State == StateUnknown || e.State == StateAlive):
			if due := e.due.Add(absent); now.Before(due) {
				soon(due)
				continue
			}
			e.State, e.Since = StateDead, now
			changed = append(changed, e.Member)
		case e.State != StateAlive && e.ClusterID == "" && d.self.ClusterID != "":
			if due := e.Since.Add(forgetBlank); now.Before(due) {
				soon(due)
				continue
			}
			delete(d.members, id)
			changed = append(changed, e.Member)
		}
	}
	return changed, next
}

// setCluster is called when this node enters a cluster: members of others, and of
// other epochs of it, leave the directory.
func (d *directory) setCluster(id, epoch string) {
	d.self.ClusterID, d.self.Epoch = id, epoch
	maps.DeleteFunc(d.members, func(mid string, e *entry) bool {
		if d.admits(e.allegiance()) {
			return false
		}
		d.foreign[mid] = e.allegiance()
		return true
	})
}

// list returns all members, this node included, by id.
func (d *directory) list() []Member {
	out := make([]Member, 0, len(d.members)+1)
	self := d.self.Member
	self.Self, self.State = true, StateAlive
	out = append(out, self)
	for _, e := range d.members {
		out = append(out, e.Member)
	}
	slices.SortFunc(out, func(a, b Member) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

func (d *directory) find(id string) (Member, bool) {
	if id == d.self.ID {
		return d.self.Member, true
	}
	e := d.members[id]
	if e == nil {
		return Member{}, false
	}
	return e.Member, true
}

// missing returns where to look for members that are not in touch, those that left in
// an orderly way apart. Where another member is in touch at the same address, the
// missing one is not: its machine was made anew.
func (d *directory) missing() (lost, left []netip.AddrPort) {
	taken := map[netip.AddrPort]bool{d.self.ClusterAddr(): true}
	for _, e := range d.members {
		if e.met && e.State == StateAlive {
			taken[e.ClusterAddr()] = true
		}
	}
	for _, e := range d.members {
		a := e.ClusterAddr()
		switch {
		case e.met && e.State == StateAlive || !a.IsValid() || taken[a]:
		case e.State == StateLeft:
			left = append(left, a)
		default:
			lost = append(lost, a)
		}
	}
	return lost, left
}

// inTouch tells whether a cluster address is this node's or that of a member in touch.
func (d *directory) inTouch(a netip.AddrPort) bool {
	if a == d.self.ClusterAddr() {
		return true
	}
	for _, e := range d.members {
		if e.met && e.State == StateAlive && e.ClusterAddr() == a {
			return true
		}
	}
	return false
}

// othersAlive counts the living members in touch beside this node.
func (d *directory) othersAlive() int {
	n := 0
	for _, e := range d.members {
		if e.met && e.State == StateAlive {
			n++
		}
	}
	return n
}
