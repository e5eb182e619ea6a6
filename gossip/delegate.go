package gossip

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/hashicorp/memberlist"
)

const msgLease = 1 // the first byte of a broadcast of ours

// pushState is what two nodes tell each other in push-pull beside membership, and,
// with a single lease, what a broadcast carries. Leases are of the sender's
// cluster and mean nothing outside it.
type pushState struct {
	Cluster string      `codec:"k"` // with its epoch: the allegiance
	Cards   []card      `codec:"c"`
	Leases  []wireLease `codec:"l"`
	Removed []string    `codec:"r"`
}

// delegate is what memberlist calls. It serves one life: calls for an earlier
// one, which memberlist may still make while it shuts down, change nothing.
//
// NotifyAlive, NotifyJoin, NotifyLeave and NotifyUpdate run with memberlist's lock
// held and must not call it.
type delegate struct {
	r     *Ring
	life  uint64
	queue *memberlist.TransmitLimitedQueue
}

var (
	_ memberlist.Delegate      = (*delegate)(nil)
	_ memberlist.EventDelegate = (*delegate)(nil)
	_ memberlist.AliveDelegate = (*delegate)(nil)
)

func (d *delegate) NodeMeta(limit int) []byte {
	b := d.r.metadata().encode()
	if len(b) > limit {
		panic("gossip: the metadata outgrew memberlist's limit although its parts are within theirs")
	}
	return b
}

func sightingOf(n *memberlist.Node) (sighting, error) {
	id, life, err := parseMemberName(n.Name)
	if err != nil {
		return sighting{}, err
	}
	m, err := decodeMetadata(n.Meta)
	if err != nil {
		return sighting{}, fmt.Errorf("metadata of node %s: %w", id, err)
	}
	addr, ok := netip.AddrFromSlice(n.Addr)
	if !ok {
		return sighting{}, fmt.Errorf("gossip: node %s has no address", id)
	}
	return sighting{id: id, life: life, addr: addr.Unmap(), meta: m}, nil
}

// NotifyAlive keeps nodes of other clusters out.
func (d *delegate) NotifyAlive(n *memberlist.Node) error {
	s, err := sightingOf(n)
	if err != nil {
		return err
	}
	return d.r.admit(d.life, s)
}

func (d *delegate) NotifyJoin(n *memberlist.Node)   { d.r.sighted(d.life, n) }
func (d *delegate) NotifyUpdate(n *memberlist.Node) { d.r.sighted(d.life, n) }
func (d *delegate) NotifyLeave(n *memberlist.Node)  { d.r.lost(d.life, n) }

func (d *delegate) NotifyMsg(b []byte) {
	if len(b) < 2 || b[0] != msgLease {
		return // of a later version
	}
	s, err := decodePushState(b[1:])
	if err != nil {
		d.r.log.Debug("a lease in a datagram was malformed", "error", err)
		return
	}
	d.r.mergeLeases(s.cluster, s.leases)
}

func (d *delegate) GetBroadcasts(overhead, limit int) [][]byte {
	return d.queue.GetBroadcasts(overhead, limit)
}

func (d *delegate) LocalState(bool) []byte {
	r := d.r
	var s pushState
	r.mu.Lock()
	s.Cluster = r.dir.self.allegiance()
	for _, m := range r.dir.list() {
		if m.ClusterID != "" && m.Addr.IsValid() {
			s.Cards = append(s.Cards, cardOf(m))
		}
	}
	var leases []Lease
	if s.Cluster != "" {
		leases = r.leases.all()
		s.Removed = r.removedLocked()
	}
	r.mu.Unlock()
	for _, l := range leases {
		s.Leases = append(s.Leases, l.wire())
	}
	b, err := pack(s)
	if err != nil {
		r.log.Error("the ring's state cannot be encoded", "error", err)
		return nil
	}
	return b
}

func (d *delegate) MergeRemoteState(b []byte, _ bool) {
	s, err := decodePushState(b)
	if err != nil {
		d.r.log.Debug("what a node sent of its state was malformed", "error", err)
		return
	}
	d.r.hearRemoved(s.cluster, s.removed)
	d.r.learn(d.life, s.members)
	d.r.mergeLeases(s.cluster, s.leases)
}

type remoteState struct {
	cluster string
	members []Member
	leases  []Lease
	removed []string
}

// decodePushState skips single entries that this version cannot take.
func decodePushState(b []byte) (remoteState, error) {
	var s pushState
	if err := unpack(b, &s); err != nil {
		return remoteState{}, err
	}
	out := remoteState{cluster: s.Cluster, removed: s.Removed}
	for _, c := range s.Cards {
		if m, err := c.member(); err == nil {
			out.members = append(out.members, m)
		}
	}
	for _, w := range s.Leases {
		if l, err := w.lease(); err == nil {
			out.leases = append(out.leases, l)
		}
	}
	return out, nil
}

// leaseBroadcast is one lease on its way through the ring; a newer one of the
// same node takes its place.
type leaseBroadcast struct {
	node string
	msg  []byte
}

var _ memberlist.NamedBroadcast = (*leaseBroadcast)(nil)

func (b *leaseBroadcast) Name() string    { return b.node }
func (b *leaseBroadcast) Message() []byte { return b.msg }
func (b *leaseBroadcast) Finished()       {}
func (b *leaseBroadcast) Invalidates(o memberlist.Broadcast) bool {
	ob, ok := o.(*leaseBroadcast)
	return ok && ob.node == b.node
}

// newQueue is a queue of leases for a ring of nodes() nodes.
func newQueue(nodes func() int) *memberlist.TransmitLimitedQueue {
	q := &memberlist.TransmitLimitedQueue{RetransmitMult: retransmitMult, NumNodes: nodes}
	q.QueueBroadcast(ballast{})
	return q
}

// ballast lies in a queue for ever, too large for any datagram. A queue begins to number
// its broadcasts anew whenever it holds none for a moment, which it also does on the way
// of putting one in; of two of one length and number it keeps one. With ballast it is
// never empty. (memberlist v0.7.0)
type ballast struct{}

var (
	_ memberlist.UniqueBroadcast = ballast{}

	ballastMessage = make([]byte, 1<<16)
)

func (ballast) Message() []byte                       { return ballastMessage }
func (ballast) Invalidates(memberlist.Broadcast) bool { return false }
func (ballast) Finished()                             {}
func (ballast) UniqueBroadcast()                      {}

// admit is the gate for every alive message.
func (r *Ring) admit(life uint64, s sighting) error {
	kind, err := r.judge(life, s)
	if err != nil {
		r.refused(Refusal{Kind: kind, ID: s.id, Name: s.meta.name, Addr: s.addr, ClusterID: s.meta.clusterID, Epoch: s.meta.epoch})
	}
	return err
}

func (r *Ring) judge(life uint64, s sighting) (RefusalKind, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if life != r.life {
		return "", nil
	}
	if s.id == r.dir.self.ID {
		if s.life > r.life {
			r.askRebirth(s.life, s.addr)
		}
		return "", nil
	}
	if r.dir.removed[s.id] {
		return RefusedRemoved, errors.New("an operator removed it from the cluster")
	}
	theirs := allegiance(s.meta.clusterID, s.meta.epoch)
	if r.dir.admits(theirs) {
		return "", nil
	}
	if s.meta.clusterID == r.dir.self.ClusterID {
		if r.dir.refuse(s.id, theirs) {
			r.changedLocked()
		}
		return RefusedEpoch, fmt.Errorf("it belongs to another epoch of cluster %s", s.meta.clusterID)
	}
	if r.dir.refuse(s.id, theirs) {
		r.log.Warn("refused a node of another cluster under the same join secret; both clusters stay as they are. "+
			"To have it here, stop it and start it with a blank data directory",
			"node", s.meta.name, "id", s.id, "address", s.addr, "cluster", s.meta.clusterID, "ownCluster", r.dir.self.ClusterID)
		r.changedLocked()
	}
	return RefusedCluster, fmt.Errorf("it belongs to cluster %s", s.meta.clusterID)
}

func (r *Ring) sighted(life uint64, n *memberlist.Node) {
	s, err := sightingOf(n)
	if err != nil || s.id == r.cfg.NodeID {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if life != r.life || !r.dir.admits(allegiance(s.meta.clusterID, s.meta.epoch)) || r.dir.removed[s.id] {
		return
	}
	r.dir.ports[n.Name] = s.meta.clusterPort
	changed, joined := r.dir.alive(s, time.Now())
	if joined {
		r.figures.joins.Add(1)
		r.log.Info("node joined the ring", "node", s.meta.name, "id", s.id, "address", s.addr)
	}
	if changed {
		r.changedLocked()
	}
}

func (r *Ring) lost(life uint64, n *memberlist.Node) {
	id, l, err := parseMemberName(n.Name)
	if err != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if life != r.life {
		return
	}
	delete(r.dir.ports, n.Name)
	m, changed := r.dir.gone(id, l, time.Now())
	if !changed {
		return
	}
	if m.State == StateLeft {
		r.figures.left.Add(1)
		r.log.Info("node left the ring", "node", m.Name, "id", id, "address", m.Addr)
	} else {
		r.figures.dead.Add(1)
		r.log.Warn("node does not answer anybody and is held for dead", "node", m.Name, "id", id, "address", m.Addr)
	}
	r.changedLocked()
}

// learn takes another node's address book.
func (r *Ring) learn(life uint64, members []Member) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if life != r.life {
		return
	}
	changed := false
	for _, m := range members {
		if m.ID == r.dir.self.ID && m.Incarnation > r.life {
			r.askRebirth(m.Incarnation, m.Addr)
		}
		changed = r.dir.learn(m, time.Now()) || changed
	}
	if changed {
		r.changedLocked()
	}
}
