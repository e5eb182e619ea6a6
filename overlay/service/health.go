package service

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Health answers at each Service's healthCheckNodePort whether this node has
// ready endpoints of it: a balancer outside sends only to nodes that do (KEP-27).
// The answers are kube-proxy's.
type Health struct {
	listen func(port uint16) (net.Listener, error)
	log    *slog.Logger
	wake   chan struct{}

	mu     sync.Mutex // protects checks
	checks map[string]check
}

// check is one Service's. here is the number of its ready endpoints on this node.
type check struct {
	port uint16
	here int
}

// NewHealth returns a Health; listen opens a port of the node.
func NewHealth(listen func(port uint16) (net.Listener, error), log *slog.Logger) *Health {
	return &Health{listen: listen, log: log, wake: make(chan struct{}, 1), checks: map[string]check{}}
}

// Set says what is known of a Service; nil: it is gone.
func (h *Health) Set(key string, svc *corev1.Service, list []*discoveryv1.EndpointSlice, node Node) {
	h.mu.Lock()
	defer h.mu.Unlock()
	before := h.checks[key]
	if svc == nil || svc.Spec.HealthCheckNodePort == 0 {
		delete(h.checks, key)
	} else {
		h.checks[key] = check{uint16(svc.Spec.HealthCheckNodePort), readyHere(list, node)}
	}
	if h.checks[key].port != before.port {
		select {
		case h.wake <- struct{}{}:
		default:
		}
	}
}

func readyHere(list []*discoveryv1.EndpointSlice, node Node) int {
	seen := map[string]bool{}
	for _, slice := range list {
		for _, ep := range slice.Endpoints {
			if ep.NodeName != nil && *ep.NodeName == node.Name && (ep.Conditions.Ready == nil || *ep.Conditions.Ready) && len(ep.Addresses) > 0 {
				seen[ep.Addresses[0]] = true
			}
		}
	}
	return len(seen)
}

// Run serves until ctx ends.
func (h *Health) Run(ctx context.Context) {
	servers := map[string]*healthServer{}
	defer func() {
		for _, s := range servers {
			s.stop()
		}
	}()
	for {
		h.mu.Lock()
		want := maps.Clone(h.checks)
		h.mu.Unlock()
		for key, s := range servers {
			if want[key].port != s.port {
				s.stop()
				delete(servers, key)
			}
		}
		var again <-chan time.Time
		for _, key := range slices.Sorted(maps.Keys(want)) {
			if servers[key] != nil {
				continue
			}
			s, err := h.serve(key, want[key].port)
			if err != nil {
				h.log.Warn("a Service's health check port does not answer, will be tried again", "service", key, "error", err)
				again = time.After(10 * time.Second)
				continue
			}
			servers[key] = s
		}
		select {
		case <-ctx.Done():
			return
		case <-h.wake:
		case <-again:
		}
	}
}

type healthServer struct {
	port  uint16
	http  *http.Server
	ended chan struct{}
}

func (s *healthServer) stop() {
	s.http.Close()
	<-s.ended
}

func (h *Health) serve(key string, port uint16) (*healthServer, error) {
	l, err := h.listen(port)
	if err != nil {
		return nil, fmt.Errorf("opening port %d: %w", port, err)
	}
	namespace, name, _ := strings.Cut(key, "/")
	server := &http.Server{ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h.mu.Lock()
		here := h.checks[key].here
		h.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if here == 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(map[string]any{ // the balancer is gone, or asks again
			"service":             map[string]string{"namespace": namespace, "name": name},
			"localEndpoints":      here,
			"serviceProxyHealthy": true,
		})
	})}
	s := &healthServer{port: port, http: server, ended: make(chan struct{})}
	go func() {
		defer close(s.ended)
		_ = server.Serve(l) // ends when it is closed
	}()
	return s, nil
}
