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
// own lease. Other nodes' leases are the ring's to remember. Written only when it
// changes.
type memory struct {
	Version int   `json:"version"`
	Own     Lease `json:"own"`
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
