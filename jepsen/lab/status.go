package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
)

// HostStatus is a host and what its node says of itself.
type HostStatus struct {
	Host     string     `json:"host"`
	Address  netip.Addr `json:"address"`
	State    string     `json:"state"`           // down, paused, running, or why it does not answer
	Phase    string     `json:"phase,omitempty"` // what the node is doing, in its words
	Role     string     `json:"role,omitempty"`
	Cluster  string     `json:"cluster,omitempty"`
	Leader   string     `json:"leader,omitempty"` // name of the node that leads, as this node sees it
	Revision uint64     `json:"revision,omitempty"`
	Faults   []string   `json:"faults,omitempty"` // of its network, in words
}

// Status asks every host.
func (l *Lab) Status(ctx context.Context) []HostStatus {
	var all []HostStatus
	for _, h := range l.hosts {
		all = append(all, h.summary(ctx))
	}
	return all
}

func (h *Host) summary(ctx context.Context) HostStatus {
	s := HostStatus{Host: h.Name, Address: h.Addr, State: "running", Faults: h.ailments()}
	pid, err := h.Pid()
	if errors.Is(err, ErrNotRunning) {
		s.State = "down"
		return s
	}
	if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && strings.Contains(string(stat), ") T ") {
		s.State = "paused"
		return s
	}
	raw, err := h.Status(ctx)
	if err != nil {
		s.State = "silent"
		return s
	}
	var n nodeStatus
	if err := json.Unmarshal(raw, &n); err != nil {
		s.State = "garbled"
		return s
	}
	s.Phase, s.Role, s.Cluster, s.Revision = n.Phase, n.Role, n.Cluster, n.Revision
	for _, m := range n.Members {
		if m.ID == n.Leader {
			s.Leader = m.Name
		}
	}
	return s
}
