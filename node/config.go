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

	"kontiki/apiserver"
	"kontiki/raftstore"
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

	// RegistriesFile says how registries of images are reached (image.Registries);
	// DataDir/registries.yaml, if there is one, when empty.
	RegistriesFile string
	// ImageGCHigh and ImageGCLow are how full the disk is, in per cent, when images are
	// removed and until when; 85 and 80 when 0.
	ImageGCHigh, ImageGCLow int
	// MaxPods is how many pods this node takes; 110 when 0.
	MaxPods int
	// AllowedUnsafeSysctls are sysctls, or beginnings with a star, that pods may set beside the safe ones.
	AllowedUnsafeSysctls []string

	// LogStore is what a blank DataDir keeps Raft's log in, a raftstore.LogStore.
	LogStore string

	// LoadBalancer says who answers for Services of that type: LoadBalancerNodes (the
	// default) or LoadBalancerOff. The leader's word counts: say the same everywhere.
	LoadBalancer string
	// Tolerations are how long pods that do not say it stay on a node that is not
	// ready or gone; nil is 30 s each. It holds for pods made through this node: say
	// the same everywhere.
	Tolerations *apiserver.Tolerations

	// Voting says when the leader gives and takes votes.
	Voting Voting

	// Audit says which requests this node's API notes; the zero value notes none.
	Audit apiserver.Audit

	// Settings of the cluster, used when this node founds one. Those that the user
	// gave (Given) must be those of the cluster that this node belongs to.
	Settings   Settings
	Given      Given
	CgroupRoot string // parent of the pods' cgroups; "/" when empty
	Logger     *slog.Logger
	Clock      func() time.Time // the machine's clock; time.Now when nil

	// Faults are what a build for tests can do to this node; a product has none.
	Faults Faults
}

// Faults break a node on request, and have it look for that.
type Faults struct {
	// Store, if set, changes what the store is opened with.
	Store func(*raftstore.Config)
	// OnRequest is what the admin socket does at POST /fault/NAME, with the request's body.
	OnRequest map[string]func(store *raftstore.Store, body json.RawMessage) error
}

// What LoadBalancer may be.
const (
	LoadBalancerNodes = "nodes" // every node, at its own address
	LoadBalancerOff   = "off"   // something else writes the Services' status
)

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
	if err := c.Audit.Validate(); err != nil {
		return c, err
	}
	if c.Voting, err = c.Voting.withDefaults(); err != nil {
		return c, err
	}
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
	if _, err := raftstore.ParseLogStore(c.LogStore); err != nil {
		return c, fmt.Errorf("--log-store: %w", err)
	}
	if high, low := cmp.Or(c.ImageGCHigh, 85), cmp.Or(c.ImageGCLow, 80); low < 1 || high > 100 || low >= high {
		return c, fmt.Errorf("images are removed from %d%% of the disk down to %d%%: the first must be the larger, both between 1 and 100 (--image-gc-high-threshold, --image-gc-low-threshold)", high, low)
	}
	if c.MaxPods < 0 {
		return c, fmt.Errorf("--max-pods %d: a node takes one pod or more; leave it out for 110", c.MaxPods)
	}
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

// resolve takes the links out of the data directory's path, once it is there: the kernel tells mounts so.
func (c *Config) resolve() (err error) {
	c.DataDir, err = filepath.EvalSymlinks(c.DataDir)
	return err
}
