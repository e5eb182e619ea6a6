package node

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/net/http2"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/storage/value"

	"kontiki/apiserver"
	"kontiki/apiserver/storage/encryption"
	"kontiki/internal/port"
	"kontiki/pki"
)

const (
	apiReadyTimeout = 30 * time.Second
	shutdownGrace   = 5 * time.Second
)

// startAPI serves the Kubernetes API on the cluster port.
func (n *node) startAPI(ctx context.Context, life *lifecycle) (err error) {
	front, err := n.writeFrontProxy()
	if err != nil {
		return err
	}
	n.api, err = apiserver.New(n.apiConfig(front))
	if err != nil {
		return err
	}
	close(n.served)
	life.start("API", n.api.Run)
	server := &http.Server{
		Handler:           n.api.Handler(),
		ReadHeaderTimeout: 30 * time.Second,
		ErrorLog:          slog.NewLogLogger(n.log.With("room", "apiserver").Handler(), slog.LevelDebug),
	}
	//lint:ignore SA1019 connections come with their handshake done, and Protocols alone does not make net/http look at them
	if err := http2.ConfigureServer(server, &http2.Server{IdleTimeout: 5 * time.Minute}); err != nil {
		return fmt.Errorf("set up HTTP/2: %w", err)
	}
	life.start("API listener", func(ctx context.Context) error {
		return serveUntil(ctx, server, func() error { return server.Serve(n.port.Listener(port.API)) })
	})
	return nil
}

// serveUntil serves until ctx ends, then lets requests finish for a while.
func serveUntil(ctx context.Context, server *http.Server, serve func() error) error {
	ended := make(chan error, 1)
	go func() { ended <- serve() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.Background(), shutdownGrace)
	defer cancel()
	err := server.Shutdown(grace)
	if errors.Is(err, context.DeadlineExceeded) {
		err = server.Close() // watches and followed logs do not end by themselves
	}
	<-ended
	return err
}

func (n *node) apiConfig(front apiserver.FrontProxy) apiserver.Config {
	authority := n.charter.trust.Authority
	return apiserver.Config{
		Store:             keyGuard{n.store},
		ClientCA:          authority.Pool,
		ServiceAccountKey: n.charter.trust.ServiceAccountKey,
		Now:               n.now,
		Transformers: map[schema.GroupResource]value.Transformer{
			{Resource: "secrets"}: encryption.New(n.dataKeys),
		},
		FrontProxy: front,
		Settings: apiserver.Settings{
			ServiceCIDR: n.charter.Settings.ServiceCIDR, SecondaryServiceCIDR: n.charter.Settings.SecondaryServiceCIDR,
		},
		Agents:  agents{n},
		Audit:   n.cfg.Audit,
		Version: n.cfg.Version,
		Logger:  n.log.With("room", "apiserver"),

		Tolerations: n.cfg.Tolerations,
	}
}

// writeFrontProxy makes this node's certificate towards aggregated API servers anew,
// in one file with its key: neither a crash nor a full disk leaves two that do not fit.
func (n *node) writeFrontProxy() (front apiserver.FrontProxy, err error) {
	authority, err := n.charter.trust.Authority.FrontProxy()
	if err != nil {
		return front, err
	}
	cert, key, err := authority.Client(n.now())
	if err != nil {
		return front, err
	}
	path := filepath.Join(n.cfg.DataDir, "pki", "front-proxy.pem")
	front = apiserver.FrontProxy{CertFile: path, KeyFile: path, CA: x509.NewCertPool()}
	front.CA.AddCert(authority.Cert)
	if err := pki.WriteFile(path, slices.Concat(cert, key)); err != nil {
		if _, old := tls.LoadX509KeyPair(path, path); old != nil {
			return front, err
		}
		// A full disk must not keep a node from starting: the one before is good for a year.
		n.log.Error("the certificate towards aggregated API servers cannot be renewed; the one before is used", "err", err)
	}
	return front, nil
}

// agents leads the API to the agents of nodes over the cluster port. It is
// apiserver.AgentTransport.
type agents struct{ n *node }

// Agent returns the way to the agent of the node with that name.
func (a agents) Agent(_ context.Context, name string) (*url.URL, http.RoundTripper, error) {
	for _, m := range a.n.ring.Members() {
		if m.Name == name && m.ClusterID == a.n.charter.ClusterID {
			return &url.URL{Scheme: "http", Host: m.ID}, a.n.agentTransport(m.ID), nil
		}
	}
	return nil, nil, fmt.Errorf("no member of the cluster is called %s", name)
}

// The users that a node's own components are.
func controllerUser() user.Info { return component("system:kube-controller-manager") }
func schedulerUser() user.Info  { return component("system:kube-scheduler") }

func component(name string) user.Info {
	return &user.DefaultInfo{Name: name, Groups: []string{user.AllAuthenticated}}
}

func (n *node) nodeUser() user.Info {
	return &user.DefaultInfo{Name: "system:node:" + n.cfg.Name, Groups: []string{user.NodesGroup, user.AllAuthenticated}}
}
