// Package agent is the node agent: what a kubelet is in upstream Kubernetes.
// It registers its Node and keeps the Node's status true, watches the pods bound
// to it and runs a worker (runtime/pod) for each, writes their status back, and
// serves the endpoint the API server asks for logs.
//
// Concurrency: New starts nothing. Run owns every goroutine of the agent and
// returns when all of them have exited; containers keep running, they belong to
// the shim. Handler may be called before Run; /healthz says when Run has begun.
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
	"os"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"

	"kontiki/runtime/image"
	"kontiki/runtime/pod"
	"kontiki/runtime/shim"
)

// DefaultVersion is reported as kubeletVersion when Config.Version is empty.
const DefaultVersion = "v1.37.2+kontiki"

// servicesPatience is how long containers wait to be told of Services when the
// agent starts. With no API in reach at all they start without.
const servicesPatience = 10 * time.Second

// NodeIDAnnotation carries the node's stable id on its Node object.
const NodeIDAnnotation = "kontiki.io/node-id"

// Config says who the agent is and whom it works with.
type Config struct {
	Client   kubernetes.Interface // as system:node:NAME
	NodeName string
	NodeID   string
	DataDir  string              // the node's data directory; the agent owns images/, pods/ and volumes/ in it
	Address  func() []netip.Addr // the node's own addresses, the first is its InternalIP and the hostIP of pods

	Shim    Shim // the parent of all containers, see shim.Start
	Network Network
	// NetworkReady says why the network cannot take pods yet; nil or a nil error: it
	// can. The Node is not Ready before. It is asked five times a second until it is
	// ready, later rarely, and before each pod is attached; it must be cheap.
	NetworkReady func() error

	ClusterDNS    []netip.Addr // nameservers of pods with dnsPolicy ClusterFirst
	ClusterDomain string       // "cluster.local" by default
	Version       string       // kubeletVersion of nodeInfo, DefaultVersion by default
	MaxPods       int          // 110 by default
	Labels        map[string]string
	// Registries says how registries are reached. Credentials for all pods are in DataDir/config.json, docker's format.
	Registries image.Registries
	// ImageGCHigh and ImageGCLow are how full the disk is, in per cent, when images are collected and until when; 85 and 80 by default.
	ImageGCHigh, ImageGCLow int
	// AllowedUnsafeSysctls are sysctls, or beginnings of them with a star, that pods may set beside the safe ones.
	AllowedUnsafeSysctls []string
	Logger               *slog.Logger
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
	if c.Shim == nil {
		return errors.New("agent: no shim")
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

// Shim is what the agent needs of the parent of all containers.
type Shim interface {
	pod.Shim
	Enter
	List(ctx context.Context) ([]shim.Container, error)
	ListSandboxes(ctx context.Context) ([]shim.Sandbox, error)
	Exits(ctx context.Context, cursor shim.Cursor) ([]shim.Exit, shim.Cursor, error)
	Usage(ctx context.Context) (shim.Usage, error)
	Info(ctx context.Context) (shim.Info, error)
}

// Agent runs the pods of one node.
type Agent struct {
	cfg     Config
	log     *slog.Logger
	podsDir string
	deps    *pod.Deps
	events  record.EventRecorder
	objects *objects
	metrics *metrics
	meter   meter
	disks   disks
	images  nodeImages // keepNode's alone
	host    hostFacts  // read by New
	began   time.Time
	follow  *follower

	rebooted bool  // that the machine was started anew is told; keepNode's alone
	cordoned *bool // as it was seen last, nil before; keepNode's alone

	streams  sync.WaitGroup // exec, attach and port-forward under way
	stopping chan struct{}  // closed when Run ends

	mu      sync.Mutex          // protects what follows
	pods    map[string]*running // by uid
	resumed bool                // the pods on disk have their workers
	stopped bool                // no stream may begin
}

// New checks the configuration and reads the machine's facts.
func New(cfg Config) (*Agent, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	dir, err := filepath.EvalSymlinks(cfg.DataDir) // mounts and volumes are compared with it
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	cfg.DataDir = dir
	host, err := readHost(cfg.DataDir)
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	a := &Agent{
		cfg: cfg, log: cfg.Logger.With("node", cfg.NodeName), podsDir: filepath.Join(cfg.DataDir, "pods"), pods: map[string]*running{}, stopping: make(chan struct{}),
		host: host, began: time.Now(),
	}
	a.metrics = newMetrics(a)
	a.cfg.Shim = countingShim(cfg.Shim, a.metrics)
	a.meter.shim = a.cfg.Shim
	return a, nil
}

// Run works until ctx ends, then stops every goroutine it started and returns
// nil. It returns an error only when the node cannot run pods at all.
func (a *Agent) Run(ctx context.Context) error {
	if err := os.MkdirAll(a.podsDir, 0o755); err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	images, err := image.Open(filepath.Join(a.cfg.DataDir, "images"), a.log)
	if err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	images.Registries = a.cfg.Registries
	a.images = nodeImages{images: images}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: a.cfg.Client.CoreV1().Events("")})
	a.events = broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "kubelet", Host: a.cfg.NodeName})
	directories := &localPaths{client: a.cfg.Client, nodeName: a.cfg.NodeName, root: volumesPath(&a.cfg), events: a.events, log: a.log, inUse: a.usesVolume}
	a.objects = &objects{client: a.cfg.Client, nodeName: a.cfg.NodeName, localPaths: directories}

	a.follow = newFollower(a.cfg.Client, a.refreshPods)

	// Two factories: of pods only this node's are watched, of Services all.
	podInformers := informers.NewSharedInformerFactoryWithOptions(a.cfg.Client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", a.cfg.NodeName).String()
	}))
	serviceInformers := informers.NewSharedInformerFactory(a.cfg.Client, 0)
	services := serviceInformers.Core().V1().Services().Lister()
	servicesSynced := serviceInformers.Core().V1().Services().Informer().HasSynced
	patience := time.Now().Add(servicesPatience)
	a.deps = &pod.Deps{
		Shim: a.cfg.Shim, Images: images, Network: network{a.cfg.Network}, NetworkReady: a.cfg.NetworkReady, API: api{a}, Objects: a.objects,
		StartReady: func() bool { return servicesSynced() || time.Now().After(patience) },
		Services:   func(ns string) []*corev1.Service { return servicesFor(services, ns) },
		HostIPs:    a.hostIPs, Allocatable: func() corev1.ResourceList { return allocatable(a.host) },
		DNS:             pod.DNS{Servers: a.cfg.ClusterDNS, Domain: a.cfg.ClusterDomain, Host: "/etc/resolv.conf"},
		NodeCredentials: filepath.Join(a.cfg.DataDir, "config.json"),
		Dir:             a.podsDir, SeccompDir: filepath.Join(a.cfg.DataDir, "seccomp"), Now: time.Now, Log: a.log, Counter: a.metrics,
	}

	var children sync.WaitGroup
	defer a.endStreams()
	defer children.Wait()
	defer a.follow.close()
	defer podInformers.Shutdown()
	defer serviceInformers.Shutdown()
	defer cancel()
	a.tellNode(corev1.EventTypeNormal, "Starting", "Starting kubelet.")
	children.Go(func() { a.keepNode(ctx) })
	serviceInformers.Start(ctx.Done())
	if err := a.resume(ctx, &children); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("agent: %w", err)
	}
	children.Go(func() { a.collectImages(ctx, images) })
	children.Go(func() { a.watchExits(ctx) })
	children.Go(func() { a.refresh(ctx) })
	children.Go(func() { a.watchLimits(ctx) })
	children.Go(func() { directories.run(ctx) })
	a.watchPods(ctx, podInformers, &children)
	<-ctx.Done()
	return nil
}

// volumesPath is where the directories of this node's local-path volumes lie.
func volumesPath(cfg *Config) string { return filepath.Join(cfg.DataDir, "volumes") }

// endStreams ends exec, attach and port-forward, and waits for them.
func (a *Agent) endStreams() {
	a.mu.Lock()
	a.stopped = true
	a.mu.Unlock()
	close(a.stopping)
	a.streams.Wait()
}
