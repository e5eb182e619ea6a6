package node

import (
	"fmt"
	"net"
	"net/netip"

	"kontiki/gossip"
	"kontiki/raftstore"
)

// ringRefused notes whom the ring keeps out. The ring logs two of the three itself.
func (n *node) ringRefused(f gossip.Refusal) {
	who := f.ID
	if f.Name != "" {
		who = fmt.Sprintf("%s (%s)", f.Name, f.ID)
	}
	switch f.Kind {
	case gossip.RefusedSecret:
		n.problems.note("secret/"+f.Addr.String(), wrongSecret(f.Addr.String()))
	case gossip.RefusedCluster:
		n.problems.note("cluster/"+f.ID, fmt.Sprintf(
			"node %s at %s is refused: it belongs to cluster %s under the same join secret, and both clusters stay as they are; to have it here, stop it and start it with an empty data directory",
			who, f.Addr, f.ClusterID))
	case gossip.RefusedEpoch:
		n.epochRefused(who+" at "+f.Addr.String(), raftstore.EpochsDiffer(who+" at "+f.Addr.String(), n.charterEpoch(), raftstore.Epoch(f.Epoch)))
	case gossip.RefusedRemoved:
		n.problems.report("removed/"+f.ID, fmt.Sprintf(
			"node %s at %s is refused: an operator removed it from the cluster; to let the machine in as a new node, stop it and start it with an empty data directory",
			who, f.Addr))
	}
}

// epochRefused notes a member of another epoch of this cluster.
func (n *node) epochRefused(who string, why error) { n.problems.report("epoch/"+who, why.Error()) }

// secretRefused notes a failed proof of the join secret, at either end.
func (n *node) secretRefused(peer net.Addr, _ error) {
	host := hostOf(peer)
	n.problems.report("secret/"+host, wrongSecret(host))
}

// hostOf is an address without its port, which differs with each connection.
func hostOf(addr net.Addr) string {
	if ap, err := netip.ParseAddrPort(addr.String()); err == nil {
		return ap.Addr().Unmap().String()
	}
	return addr.String()
}

func wrongSecret(host string) string {
	return fmt.Sprintf("the node at %s is refused, and refuses this one: it does not know this node's join secret; give all nodes of a cluster the same --secret-file (if the secret was changed, kontiki secret show prints it; a member that was away takes it by itself)", host)
}
