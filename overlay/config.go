package overlay

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/vishvananda/netns"
	"k8s.io/client-go/kubernetes"

	"kontiki/overlay/datapath"
	"kontiki/overlay/ipam"
)

// TunnelPort is the UDP port of the tunnels between nodes.
const TunnelPort = datapath.Port

// CheckBackend says whether there is a backend of that name.
func CheckBackend(name string) error { return datapath.Backend(name).Check() }

// Config is what a Network is made of.
type Config struct {
	NodeName, NodeID string
	// Client reads nodes, services and endpointslices.
	Client kubernetes.Interface
	Leases LeaseRing
	// Dead may be nil: then no node is ever held for dead.
	Dead DeadNodes
	// Underlay returns the node's own address as other nodes reach it; it may
	// change, and be zero for a while.
	Underlay                   func() netip.Addr
	ClusterCIDRs, ServiceCIDRs []netip.Prefix
	// Backend is how packets get to other nodes, datapath.VXLAN when empty; the same
	// on all nodes.
	Backend       datapath.Backend
	ClusterDNS    netip.Addr
	ClusterDomain string // "cluster.local" when empty
	// Upstreams are the DNS servers for names outside the cluster; when nil, those
	// of ResolvConf, read again when it changes.
	Upstreams  []netip.AddrPort
	ResolvConf string // "/etc/resolv.conf" when empty
	// ReservedPorts are ports of the node that no Service may take from it: its own.
	ReservedPorts []uint16
	// DataDir is the folder of this room; made when missing.
	DataDir string
	// NetNS is the network namespace to work in; closed (netns.None()): the
	// process's own. It stays the caller's.
	NetNS *netns.NsHandle
	// CheckEvery is how often the kernel is compared with what should be, besides
	// after every notice of a change; 10 s when 0. It writes nothing.
	CheckEvery time.Duration
	Logger     *slog.Logger
}

// OwnDevice says whether a network device is one that this room makes.
func OwnDevice(name string) bool { return datapath.OwnDevice(name) }

// HostPort is a port of the node that leads to a port of the pod.
type HostPort = ipam.HostPort

// PodAttachment says which pod to attach, and where.
type PodAttachment struct {
	UID, Namespace, Name string
	NetNS                string // path of the pod's network namespace
	HostPorts            []HostPort
	// OwnPath says that the pod's resolver searches other domains than those of its
	// namespace, the cluster and the node: the DNS server completes nothing for it.
	OwnPath bool
}

func (c *Config) complete() error {
	if c.NodeName == "" || c.NodeID == "" || c.Client == nil || c.Leases == nil || c.Underlay == nil || c.DataDir == "" {
		return errors.New("overlay: NodeName, NodeID, Client, Leases, Underlay and DataDir are needed")
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.ClusterDomain == "" {
		c.ClusterDomain = "cluster.local"
	}
	if c.ResolvConf == "" {
		c.ResolvConf = "/etc/resolv.conf"
	}
	if c.CheckEvery == 0 {
		c.CheckEvery = 10 * time.Second
	}
	if c.NetNS == nil {
		none := netns.None()
		c.NetNS = &none
	}
	if c.Backend == "" {
		c.Backend = datapath.VXLAN
	}
	if err := c.Backend.Check(); err != nil {
		return err
	}
	return checkRanges(c.ClusterCIDRs, c.ServiceCIDRs, c.ClusterDNS)
}

// checkRanges refuses address ranges that cannot work together.
func checkRanges(cluster, service []netip.Prefix, dns netip.Addr) error {
	for _, c := range cluster {
		for _, s := range service {
			if c.Overlaps(s) {
				return fmt.Errorf("the pods' range %s and the Services' range %s overlap: form the cluster with ranges that do not", c, s)
			}
		}
	}
	if !dns.IsValid() {
		return nil
	}
	for _, s := range service {
		if s.Contains(dns) {
			return nil
		}
	}
	return fmt.Errorf("the cluster's DNS address %s is not in the Services' range %v", dns, service)
}
