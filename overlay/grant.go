package overlay

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"

	"kontiki/overlay/ipam"
)

// memory is what this node must know without anyone's help after a restart: its
// own lease and the last known ones of others. Written only when it changes.
type memory struct {
	Version int     `json:"version"`
	Own     Lease   `json:"own"`
	Peers   []Lease `json:"peers,omitempty"`
}

func readMemory(path, nodeID string) (memory, error) {
	blank := memory{Version: 1, Own: Lease{NodeID: nodeID}}
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return blank, nil
	}
	if err != nil {
		return memory{}, fmt.Errorf("reading the last known leases: %w", err)
	}
	var m memory
	if err := json.Unmarshal(raw, &m); err != nil {
		return memory{}, fmt.Errorf("%s cannot be read as this node's leases (%w): remove it, it is made again once the node reaches the cluster", path, err)
	}
	if m.Version != 1 {
		return memory{}, fmt.Errorf("%s is of version %d, which this program does not know: use the newer program that wrote it", path, m.Version)
	}
	if m.Own.NodeID != nodeID {
		return blank, nil // the folder of another node: nothing of it is ours
	}
	return m, nil
}

func (m memory) write(path string) error {
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := ipam.WriteFile(path, raw); err != nil {
		return fmt.Errorf("keeping the leases: %w", err)
	}
	return nil
}

// granted returns own with the subnets of a grant seen at revision. The same
// subnets seen again are the same grant.
func granted(own Lease, subnets []netip.Prefix, revision uint64) Lease {
	if len(subnets) == 0 || slices.Equal(own.Subnets, subnets) {
		return own
	}
	own.Subnets, own.GrantRevision = slices.Clone(subnets), revision
	return own
}

// ended returns own with its tunnel's end at e; an end that differs from the last
// one is a newer one.
func ended(own Lease, e Endpoint) Lease {
	was := own.Endpoint
	if was.Addr == e.Addr && was.MTU == e.MTU && slices.Equal(was.MAC, e.MAC) {
		return own
	}
	e.Sequence = was.Sequence + 1
	own.Endpoint = e
	return own
}

// newer says whether a, a lease of the same node as b, replaces it.
func newer(a, b Lease) bool {
	if a.GrantRevision != b.GrantRevision {
		return a.GrantRevision > b.GrantRevision
	}
	return a.Endpoint.Sequence > b.Endpoint.Sequence
}

// merged returns the newest lease of every other node, of those remembered and
// those in the ring. A remembered one that the ring does not know is dropped once
// the API says that its subnets are granted to nobody; grants is nil as long as
// that is not known.
func merged(self string, remembered, ring []Lease, grants map[netip.Prefix]bool) []Lease {
	by := map[string]Lease{}
	for _, l := range remembered {
		if l.NodeID == self || grants != nil && !slices.ContainsFunc(l.Subnets, func(p netip.Prefix) bool { return grants[p] }) {
			continue
		}
		by[l.NodeID] = l
	}
	for _, l := range ring {
		if l.NodeID == self || len(l.Subnets) == 0 {
			continue
		}
		if old, ok := by[l.NodeID]; !ok || newer(l, old) {
			by[l.NodeID] = l
		}
	}
	out := make([]Lease, 0, len(by))
	for _, l := range by {
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b Lease) int {
		if a.NodeID < b.NodeID {
			return -1
		}
		return 1
	})
	return out
}
