package node

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"kontiki/overlay"
)

// Config is what a user says about one node. DataDir is required.
type Config struct {
	DataDir string
	Name    string // the Node object's name; the host name when empty
	Zone    string // topology.kubernetes.io/zone
	Version string

	// SecretFile holds the join secret. Without one the node makes a secret,
	// keeps it in DataDir, and forms a cluster of one that others may join.
	SecretFile string
	Join       []string // addresses or names of other nodes, with or without port
	Replace    bool     // take the place of a dead node that has this one's name
	Expect     int      // blank nodes that found a cluster together; 3 when 0

	Advertise netip.Addr // address by which others reach this node; found out when zero
	Port      uint16     // TCP, everything between nodes and clients; 6443 when 0
	RingPort  uint16     // UDP, the ring; 7946 when 0

	// LoadBalancer says who answers for Services of that type: LoadBalancerNodes (the
	// default) or LoadBalancerOff. The leader's word counts: say the same everywhere.
	LoadBalancer string

	// Settings of the cluster, used when this node founds one.
	Settings   Settings
	CgroupRoot string // parent of the pods' cgroups; "/" when empty
	Logger     *slog.Logger
	Clock      func() time.Time // the machine's clock; time.Now when nil
}

// What LoadBalancer may be.
const (
	LoadBalancerNodes = "nodes" // every node, at its own address
	LoadBalancerOff   = "off"   // something else writes the Services' status
)

// Settings are fixed when a cluster is formed and are the same on every node.
type Settings struct {
	Voters        int          `json:"voters"`        // how many nodes vote at most; odd
	ClusterCIDR   netip.Prefix `json:"clusterCIDR"`   // pods; a subnet of it for each node
	NodePrefixLen int          `json:"nodePrefixLen"` // length of a node's subnet
	ServiceCIDR   netip.Prefix `json:"serviceCIDR"`
	ClusterDNS    netip.Addr   `json:"clusterDNS"`
	ClusterDomain string       `json:"clusterDomain"`
	// PodNetwork is the overlay's backend, vxlan (also when empty) or host-gw.
	PodNetwork string `json:"podNetwork,omitempty"`
}

// DefaultSettings are those of a cluster whose founders said nothing.
func DefaultSettings() Settings {
	return Settings{
		Voters:        5,
		ClusterCIDR:   netip.MustParsePrefix("10.42.0.0/16"),
		NodePrefixLen: 24,
		ServiceCIDR:   netip.MustParsePrefix("10.43.0.0/16"),
		ClusterDNS:    netip.MustParseAddr("10.43.0.10"),
		ClusterDomain: "cluster.local",
	}
}

// nodeName is a DNS subdomain (RFC 1123), as the API wants names of Nodes.
var nodeName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)

func (c Config) withDefaults() (Config, error) {
	if c.DataDir == "" {
		return c, errors.New("node: no data directory")
	}
	dir, err := filepath.Abs(c.DataDir)
	if err != nil {
		return c, err
	}
	c.DataDir = dir
	if c.Name == "" {
		if c.Name, err = os.Hostname(); err != nil {
			return c, fmt.Errorf("find the host name (or give --name): %w", err)
		}
	}
	if len(c.Name) > 253 || !nodeName.MatchString(c.Name) {
		return c, fmt.Errorf("%q cannot name a node: use lower-case letters, digits, '-' and '.', beginning and ending with a letter or digit (--name)", c.Name)
	}
	if c.SecretFile == "" {
		if len(c.Join) > 0 || c.Expect > 1 {
			return c, errors.New("to join others a node needs their join secret: give it with --secret-file")
		}
		c.Expect = 1
	}
	c.Expect = cmp.Or(c.Expect, 3)
	if c.Expect < 1 {
		return c, fmt.Errorf("--expect %d: a cluster is founded by one node or more", c.Expect)
	}
	c.Port, c.RingPort = cmp.Or(c.Port, 6443), cmp.Or(c.RingPort, 7946)
	c.CgroupRoot = cmp.Or(c.CgroupRoot, "/")
	c.LoadBalancer = cmp.Or(c.LoadBalancer, LoadBalancerNodes)
	if c.LoadBalancer != LoadBalancerNodes && c.LoadBalancer != LoadBalancerOff {
		return c, fmt.Errorf("--load-balancer %s: use %s or %s", c.LoadBalancer, LoadBalancerNodes, LoadBalancerOff)
	}
	if c.Settings == (Settings{}) {
		c.Settings = DefaultSettings()
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, c.Settings.validate()
}

func (s Settings) validate() error {
	switch {
	case s.Voters < 1 || s.Voters > 9 || s.Voters%2 == 0:
		return fmt.Errorf("cluster settings: voters is %d; it must be 1, 3, 5, 7 or 9 (an even number survives no more losses than the odd one below it)", s.Voters)
	case !s.ClusterCIDR.IsValid() || !s.ServiceCIDR.IsValid():
		return errors.New("cluster settings: clusterCIDR and serviceCIDR must be prefixes like 10.42.0.0/16")
	case s.ClusterCIDR.Overlaps(s.ServiceCIDR):
		return fmt.Errorf("cluster settings: clusterCIDR %s and serviceCIDR %s overlap", s.ClusterCIDR, s.ServiceCIDR)
	case s.NodePrefixLen <= s.ClusterCIDR.Bits() || s.NodePrefixLen > s.ClusterCIDR.Addr().BitLen()-2:
		return fmt.Errorf("cluster settings: nodePrefixLen %d does not cut clusterCIDR %s into subnets", s.NodePrefixLen, s.ClusterCIDR)
	case !s.ServiceCIDR.Contains(s.ClusterDNS):
		return fmt.Errorf("cluster settings: clusterDNS %s is not in serviceCIDR %s", s.ClusterDNS, s.ServiceCIDR)
	case s.PodNetwork != "" && overlay.CheckBackend(s.PodNetwork) != nil:
		return overlay.CheckBackend(s.PodNetwork)
	case s.ClusterDomain == "":
		return errors.New("cluster settings: clusterDomain is empty")
	}
	return nil
}

// encode gives equal settings equal bytes: founders compare them.
func (s Settings) encode() []byte {
	data, err := json.Marshal(s)
	if err != nil {
		panic("node: settings of plain fields do not encode: " + err.Error())
	}
	return data
}

func decodeSettings(data []byte) (Settings, error) {
	var s Settings
	if err := json.Unmarshal(data, &s); err != nil {
		return s, fmt.Errorf("cluster settings: %w", err)
	}
	return s, s.validate()
}
