package node

import (
	"maps"

	"kontiki/controllers/nodelifecycle"
	"kontiki/gossip"
)

// ringHealth shows the ring to those who act on nodes that come and go. It is
// controllers.RingHealth and overlay.DeadNodes.
type ringHealth struct{ ring *gossip.Ring }

// Member is what the ring holds the node with that name for. One that was only
// remembered and not met yet counts as suspect: nothing is done about it. Of two
// members with one name, a wiped machine and what it was before, the living one
// speaks for the Node.
func (h ringHealth) Member(name string) (nodelifecycle.Member, bool) {
	var found nodelifecycle.Member
	for _, m := range h.ring.Members() {
		if m.Name == name && m.ClusterID != "" && found.State != nodelifecycle.Alive {
			found = nodelifecycle.Member{State: lifecycleState(m.State), Since: m.Since}
		}
	}
	return found, found.State != ""
}

func lifecycleState(s gossip.State) nodelifecycle.State {
	switch s {
	case gossip.StateAlive:
		return nodelifecycle.Alive
	case gossip.StateDead:
		return nodelifecycle.Dead
	case gossip.StateLeft:
		return nodelifecycle.Left
	default:
		return nodelifecycle.Suspect
	}
}

// Watch tells of changes of members.
func (h ringHealth) Watch() (<-chan struct{}, func()) { return h.ring.Watch() }

// Dead are the nodes, by name, that take no connections now.
func (h ringHealth) Dead() map[string]bool {
	dead := map[string]bool{}
	for _, m := range h.ring.Members() {
		if m.State == gossip.StateAlive || m.State == gossip.StateUnknown {
			dead[m.Name] = false
		} else if _, lives := dead[m.Name]; !lives {
			dead[m.Name] = true
		}
	}
	maps.DeleteFunc(dead, func(_ string, isDead bool) bool { return !isDead })
	return dead
}

// WatchDead tells of changes of Dead.
func (h ringHealth) WatchDead() (<-chan struct{}, func()) { return h.ring.Watch() }
