// Package agent is the node agent: what a kubelet is in upstream Kubernetes.
// It registers its Node and keeps the Node's status true, watches the pods bound
// to it and runs a worker (runtime/pod) for each, writes their status back, and
// serves the endpoint the API server asks for logs.
//
// Concurrency: New starts nothing. Run owns every goroutine of the agent and
// returns when all of them have exited; containers keep running, they belong to
// the shim. Handler may be called before Run and answers 503 until Run has
// listed its pods.
//
// Only node and cmd import this package; the agent speaks to an API client,
// never to the store.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"

	"k8s.io/client-go/kubernetes"
)

// DefaultVersion is reported as kubeletVersion when Config.Version is empty.
const DefaultVersion = "v1.37.2+kontiki"

// NodeIDAnnotation carries the node's stable id on its Node object.
const NodeIDAnnotation = "kontiki.io/node-id"

// Config says who the agent is and whom it works with.
type Config struct {
	Client   kubernetes.Interface // as system:node:NAME
	NodeName string
	NodeID   string
	DataDir  string              // the node's data directory; the agent owns images/ and pods/ in it
	Address  func() []netip.Addr // the node's own addresses, the first is its InternalIP and the hostIP of pods

	Network Network
	// NetworkReady says why the network cannot take pods yet; nil or a nil error: it
	// can. The Node is not Ready before. It is asked once a second until it is
	// ready, later rarely; it must be cheap.
	NetworkReady func() error

	CgroupRoot    string       // parent cgroup of all pods, "kubepods" by default
	ClusterDNS    []netip.Addr // nameservers of pods with dnsPolicy ClusterFirst
	ClusterDomain string       // "cluster.local" by default
	Version       string       // kubeletVersion of nodeInfo, DefaultVersion by default
	MaxPods       int          // 110 by default
	Labels        map[string]string
	Logger        *slog.Logger
}

func (c *Config) complete() error {
	if c.Client == nil {
		return errors.New("agent: no API client")
	}
	if c.NodeName == "" {
		return errors.New("agent: no node name")
	}
	if !filepath.IsAbs(c.DataDir) {
		return fmt.Errorf("agent: data directory %q is not an absolute path", c.DataDir)
	}
	if c.Network == nil {
		return errors.New("agent: no network")
	}
	if c.Address == nil {
		c.Address = func() []netip.Addr { return nil }
	}
	if c.NetworkReady == nil {
		c.NetworkReady = func() error { return nil }
	}
	if c.CgroupRoot == "" {
		c.CgroupRoot = "kubepods"
	}
	if c.ClusterDomain == "" {
		c.ClusterDomain = "cluster.local"
	}
	if c.Version == "" {
		c.Version = DefaultVersion
	}
	if c.MaxPods == 0 {
		c.MaxPods = 110
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Agent runs the pods of one node.
type Agent struct {
	cfg Config
	log *slog.Logger
}

// New checks the configuration. It touches nothing on disk.
func New(cfg Config) (*Agent, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	return &Agent{cfg: cfg, log: cfg.Logger.With("node", cfg.NodeName)}, nil
}

// Run works until ctx ends, then stops every goroutine it started and returns
// nil. It returns an error only when the node cannot run pods at all.
func (a *Agent) Run(ctx context.Context) error {
	host, err := readHost(a.cfg.DataDir)
	if err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	return a.keepNode(ctx, host)
}
