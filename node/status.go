package node

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"kontiki/gossip"
)

// Status is what a node says of itself and of its cluster.
type Status struct {
	ID       string   `json:"id"`
	Name     string   `json:"name"`
	Version  string   `json:"version,omitempty"`
	Phase    string   `json:"phase"`
	Cluster  string   `json:"cluster,omitempty"`
	Role     string   `json:"role,omitempty"` // Raft's: Leader, Follower, Candidate
	Term     uint64   `json:"term,omitempty"`
	Leader   string   `json:"leader,omitempty"` // node id
	Revision uint64   `json:"revision"`
	Members  []Member `json:"members"`
}

// Member is one member of the Raft group, or a blank node that the ring sees.
type Member struct {
	ID      string         `json:"id"`
	Name    string         `json:"name,omitempty"`
	Address netip.AddrPort `json:"address"`
	Role    string         `json:"role"`   // voter, non-voter
	Health  string         `json:"health"` // alive, dead, left, unknown: the ring's word
	Version string         `json:"version,omitempty"`
}

// SocketPath is the unix socket on which a node answers whoever may open it.
func SocketPath(dataDir string) string { return filepath.Join(dataDir, "run", "kontiki.sock") }

// status tells what boot has finished so far.
func (n *node) status() Status {
	s := Status{ID: n.id.ID, Name: n.cfg.Name, Version: n.cfg.Version, Phase: n.phase.Load().(string), Members: []Member{}}
	if !n.stored.Load() {
		return s
	}
	raft := n.store.Status()
	s.Cluster, s.Role, s.Term, s.Leader, s.Revision = n.charter.ClusterID, raft.Role, raft.Term, raft.LeaderID, raft.Revision
	known := map[string]gossip.Member{}
	for _, m := range n.ring.Members() {
		known[m.ID] = m
	}
	for _, m := range n.store.Members() {
		role := "non-voter"
		if m.Voter {
			role = "voter"
		}
		k := known[m.ID]
		s.Members = append(s.Members, Member{ID: m.ID, Name: k.Name, Address: k.ClusterAddr(), Role: role, Health: string(k.State), Version: k.Version})
	}
	return s
}

// startAdmin answers on the node's unix socket, from before it has a cluster.
func (n *node) startAdmin(life *lifecycle) error {
	path := SocketPath(n.cfg.DataDir)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) { // of a process that died; the lock says that none lives
		return err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(n.status())
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	life.start("admin socket", func(ctx context.Context) error {
		return serveUntil(ctx, server, func() error { return server.Serve(listener) })
	})
	return nil
}
