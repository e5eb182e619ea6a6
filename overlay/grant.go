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

// grant is what this node must know without anyone's help after a restart: its
// own subnets. Other nodes' leases are the ring's to remember. Written only when
// it changes.
type grant struct {
	Version int            `json:"version"`
	NodeID  string         `json:"nodeID"`
	Subnets []netip.Prefix `json:"subnets"`
	// Revision is the Node's resourceVersion when the subnets were first seen. It
	// orders grants: it is not older than the grant, and older than any later
	// grant of the same subnets, which a deletion must precede.
	Revision uint64 `json:"revision"`
	// UnderlayMTU lets pods be attached while the node's address is on no device.
	UnderlayMTU int `json:"underlayMTU"`
	// Ranges are those of Services besides the cluster's own, as far as packets are led there.
	Ranges []netip.Prefix `json:"ranges,omitempty"`
}

func (g grant) equal(o grant) bool {
	return g.NodeID == o.NodeID && g.Revision == o.Revision && g.UnderlayMTU == o.UnderlayMTU && slices.Equal(g.Subnets, o.Subnets) && slices.Equal(g.Ranges, o.Ranges)
}

// with returns g after a sight of the Node at a revision. The same subnets seen
// again are the same grant; none are no grant yet, and do not end one.
func (g grant) with(subnets []netip.Prefix, revision uint64) grant {
	if len(subnets) == 0 || slices.Equal(g.Subnets, subnets) {
		return g
	}
	g.Subnets, g.Revision = slices.Clone(subnets), revision
	return g
}

func readGrant(path, nodeID string) (grant, error) {
	blank := grant{Version: 1, NodeID: nodeID}
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return blank, nil
	}
	if err != nil {
		return grant{}, fmt.Errorf("reading this node's subnets: %w", err)
	}
	var g grant
	if err := json.Unmarshal(raw, &g); err != nil {
		return grant{}, fmt.Errorf("%s cannot be read as this node's subnets (%w): remove it, it is made again once the node reaches the cluster", path, err)
	}
	if g.Version != 1 {
		return grant{}, fmt.Errorf("%s is of version %d, which this program does not know: use the newer program that wrote it", path, g.Version)
	}
	if g.NodeID != nodeID {
		return blank, nil // the folder of another node: nothing of it is ours
	}
	return g, nil
}

func (g grant) write(path string) error {
	raw, err := json.Marshal(g)
	if err != nil {
		return err
	}
	if err := ipam.WriteFile(path, raw); err != nil {
		return fmt.Errorf("keeping this node's subnets: %w", err)
	}
	return nil
}
