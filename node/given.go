package node

import (
	"errors"
	"fmt"
	"net/netip"

	"kontiki/overlay"
	"kontiki/overlay/datapath"
)

// Given says which of the cluster's settings the user gave to a node. What was not
// given is the default on a node that founds a cluster, and nothing on others.
type Given struct {
	All        bool // a file with all of them
	PodNetwork bool
}

// errSettingsFixed ends the start of a node that was given other settings than its
// cluster has.
var errSettingsFixed = errors.New("the settings of a cluster are fixed when it is founded: start the node without them, or with those, or found another cluster from empty data directories")

// heldTo refuses a cluster whose settings are not those that the user gave.
func (c Config) heldTo(cluster Settings) error {
	var errs []error
	for _, f := range []struct {
		name             string
		given            bool
		cluster, thisOne any
	}{
		{"voters", c.Given.All, cluster.Voters, c.Settings.Voters},
		{"clusterCIDR", c.Given.All, cluster.ClusterCIDR, c.Settings.ClusterCIDR},
		{"nodePrefixLen", c.Given.All, cluster.NodePrefixLen, c.Settings.NodePrefixLen},
		{"serviceCIDR", c.Given.All, cluster.ServiceCIDR, c.Settings.ServiceCIDR},
		{"secondaryServiceCIDR", c.Given.All, cluster.SecondaryServiceCIDR, c.Settings.SecondaryServiceCIDR},
		{"clusterDNS", c.Given.All, cluster.ClusterDNS, c.Settings.ClusterDNS},
		{"clusterDomain", c.Given.All, cluster.ClusterDomain, c.Settings.ClusterDomain},
		{"podNetwork", c.Given.All || c.Given.PodNetwork, cluster.backend(), c.Settings.backend()},
	} {
		if f.given && f.cluster != f.thisOne {
			errs = append(errs, fmt.Errorf("%s is %v in this cluster, and this node was given %v", f.name, f.cluster, f.thisOne))
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return errors.Join(append(errs, errSettingsFixed)...)
}

func (s Settings) backend() datapath.Backend {
	if s.PodNetwork == "" {
		return datapath.VXLAN
	}
	return datapath.Backend(s.PodNetwork)
}

// network is a network that this machine is on.
type network struct {
	device string
	prefix netip.Prefix
}

// clash refuses address ranges of pods and Services that lie across a network of
// this machine: what is there would be taken for a pod, or the other way round.
func (s Settings) clash(networks []network) error {
	for _, r := range []struct {
		name   string
		prefix netip.Prefix
	}{{"clusterCIDR", s.ClusterCIDR}, {"serviceCIDR", s.ServiceCIDR}, {"secondaryServiceCIDR", s.SecondaryServiceCIDR}} {
		for _, n := range networks {
			if r.prefix.Overlaps(n.prefix) {
				return fmt.Errorf("cluster settings: %s %s overlaps %s, the network of this machine's %s: found the cluster with another range (--cluster-config); to join one that was, give the node the same file", r.name, r.prefix, n.prefix.Masked(), n.device)
			}
		}
	}
	return nil
}

// fits refuses settings of a cluster that this node is about to be a part of.
func (n *node) fits(cluster Settings) error {
	if err := n.cfg.heldTo(cluster); err != nil {
		return err
	}
	networks, err := ownNetworks(overlay.OwnDevice)
	if err != nil {
		return err
	}
	return cluster.clash(networks)
}
