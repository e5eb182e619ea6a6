package node

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"

	"kontiki/internal/port"
	"kontiki/overlay"
	"kontiki/overlay/datapath"
	"kontiki/runtime/agent"
	"kontiki/runtime/image"
	"kontiki/runtime/shim"
)

// startWork starts what makes this machine a place for pods: the pod network and
// the agent. They speak to the node's own API server as system:kube-proxy and
// system:node:NAME.
func (n *node) startWork(ctx context.Context, life *lifecycle) error {
	client, err := n.api.Clientset(n.nodeUser())
	if err != nil {
		return err
	}
	proxy, err := n.api.Clientset(component(user.KubeProxy))
	if err != nil {
		return err
	}
	settings := n.charter.Settings
	network, err := overlay.New(overlay.Config{
		NodeName:      n.cfg.Name,
		NodeID:        n.id.ID,
		Client:        proxy,
		Leases:        n.ring,
		Dead:          ringHealth{n.ring},
		Underlay:      n.advertise,
		ClusterCIDRs:  []netip.Prefix{settings.ClusterCIDR},
		ServiceCIDRs:  settings.serviceCIDRs(),
		ClusterDNS:    settings.ClusterDNS,
		ClusterDomain: settings.ClusterDomain,
		Backend:       datapath.Backend(settings.PodNetwork),
		ReservedPorts: []uint16{n.cfg.Port, n.cfg.RingPort},
		DataDir:       filepath.Join(n.cfg.DataDir, "overlay"),
		Logger:        n.log.With("room", "overlay"),
	})
	if err != nil {
		return err
	}
	life.onStop("pod network", func() error { network.Close(); return nil })
	if err := n.showMetrics(network, life); err != nil {
		return err
	}
	life.start("overlay", network.Run)
	n.network.Store(network)
	shims, err := shim.Start(ctx, shim.Config{
		Dir:        filepath.Join(n.cfg.DataDir, "run", "shim"),
		CgroupRoot: n.cfg.CgroupRoot,
		Logger:     n.log.With("room", "runtime"),
	})
	if err != nil {
		return err
	}
	life.onStop("shim client", shims.Close)
	registries, err := image.NodeRegistries(n.cfg.DataDir, n.cfg.RegistriesFile)
	if err != nil {
		return err
	}
	a, err := agent.New(agent.Config{
		Registries:  registries,
		ImageGCHigh: n.cfg.ImageGCHigh, ImageGCLow: n.cfg.ImageGCLow,
		AllowedUnsafeSysctls: n.cfg.AllowedUnsafeSysctls,
		MaxPods:              n.cfg.MaxPods,

		Shim:          shims,
		Client:        client,
		NodeName:      n.cfg.Name,
		NodeID:        n.id.ID,
		DataDir:       n.cfg.DataDir,
		Address:       func() []netip.Addr { return []netip.Addr{n.advertise()} },
		Network:       podNetwork{network},
		NetworkReady:  network.Ready,
		ClusterDNS:    []netip.Addr{settings.ClusterDNS},
		ClusterDomain: settings.ClusterDomain,
		Logger:        n.log.With("room", "runtime"),
	})
	if err != nil {
		return err
	}
	server := &http.Server{Handler: a.Handler(), ReadHeaderTimeout: 30 * time.Second}
	own := newOwnAgent()
	n.own.Store(own)
	life.start("agent endpoint", func(ctx context.Context) error {
		return serveUntil(ctx, server, func() error { return serveAll(server, plainListener{n.port.Listener(port.Agent)}, own) })
	})
	life.start("agent", a.Run)
	life.start("events of refills", func(ctx context.Context) error { return n.tellRefills(ctx, client) })
	return nil
}

// plainListener hides from net/http that its connections are TLS: it would look
// for a protocol by the name that the cluster port negotiated, and hang up.
type plainListener struct{ net.Listener }

func (l plainListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return struct{ net.Conn }{conn}, nil
}

// agentTransport speaks HTTP/1.1 to the agent of a node, of others over the cluster port.
func (n *node) agentTransport(nodeID string) http.RoundTripper {
	return &http.Transport{
		DisableKeepAlives: true, // the transport lives as long as one request
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			if own := n.own.Load(); own != nil && nodeID == n.id.ID {
				return own.Dial(ctx)
			}
			return n.member(port.Agent).Dial(ctx, nodeID)
		},
		Proxy: func(*http.Request) (*url.URL, error) { return nil, nil },
	}
}

// podNetwork gives the agent's pods their place in the overlay. It is agent.Network.
type podNetwork struct{ network *overlay.Network }

func (p podNetwork) Attach(ctx context.Context, pod agent.PodAttachment) ([]netip.Addr, error) {
	attachment := overlay.PodAttachment{UID: pod.UID, Namespace: pod.Namespace, Name: pod.Name, NetNS: pod.NetNS, OwnPath: pod.OwnPath}
	for _, hp := range pod.HostPorts {
		ip, err := hostIP(hp.HostIP)
		if err != nil {
			return nil, fmt.Errorf("hostPort %d: %w", hp.HostPort, err)
		}
		attachment.HostPorts = append(attachment.HostPorts, overlay.HostPort{HostIP: ip, HostPort: hp.HostPort, ContainerPort: hp.ContainerPort, Protocol: string(hp.Protocol)})
	}
	return p.network.Attach(ctx, attachment)
}

// hostIP is the zero address for a port on every address of the node.
func hostIP(s string) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, nil
	}
	return netip.ParseAddr(s)
}

func (p podNetwork) Detach(ctx context.Context, uid string) error { return p.network.Detach(ctx, uid) }

func (p podNetwork) Retain(ctx context.Context, uids []string) error {
	return p.network.Retain(ctx, uids)
}
