package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"kontiki/pki"
	"kontiki/raftstore"
)

// charter is what a node knows of its cluster before its store is open: who
// founded it, on which settings, and the keys.
type charter struct {
	ClusterID string          `json:"clusterID"`
	Epoch     raftstore.Epoch `json:"epoch,omitempty"` // which history of the cluster; names the directory of the replica
	Founders  []string        `json:"founders"`        // ids of the first voters; empty on a node that joined
	Nonvoters []string        `json:"nonvoters"`       // ids of the founders without a vote; the same
	Settings  Settings        `json:"settings"`
	// Begun tells that the replica is there: one that is missing was lost, and not yet to be made.
	Begun bool `json:"begun,omitempty"`

	trust *pki.Trust
}

// admission is what a member sends to a node that it lets in.
type admission struct {
	Charter charter         `json:"charter"`
	Grant   json.RawMessage `json:"grant"`
}

var errBlank = errors.New("this node belongs to no cluster yet")

func charterPath(dir string) string { return filepath.Join(dir, "cluster.json") }

// loadCharter reads what a node knows of its cluster. errBlank means that it has none.
func loadCharter(dir string) (charter, error) {
	trust, err := pki.LoadTrust(dir)
	if errors.Is(err, pki.ErrNoTrust) {
		return charter{}, errBlank // a charter without trust is that of an entry that was not finished
	}
	if err != nil {
		return charter{}, err
	}
	path := charterPath(dir)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return charter{}, fmt.Errorf("%s is missing, though this node belongs to cluster %s: copy it from another node of the cluster with \"founders\" emptied, or empty the data directory and join anew", path, trust.ClusterID())
	}
	if err != nil {
		return charter{}, err
	}
	c := charter{trust: trust}
	if err := json.Unmarshal(data, &c); err != nil {
		return charter{}, fmt.Errorf("%s: %w", path, err)
	}
	if c.ClusterID != trust.ClusterID() {
		return charter{}, fmt.Errorf("%s is of cluster %s, but the keys beside it are of cluster %s", path, c.ClusterID, trust.ClusterID())
	}
	if err := c.Epoch.Valid(); err != nil {
		return charter{}, fmt.Errorf("%s: %w", path, err)
	}
	c.trust.Authority = trust.Authority.InEpoch(string(c.Epoch))
	return c, c.Settings.validate()
}

// write makes a charter durable.
func (c charter) write(dir string) error {
	encoded, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	return pki.WriteFile(charterPath(dir), encoded)
}

// checkReplica refuses to begin anew with a replica that has gone: the node would have forgotten
// what it acknowledged to others, and whom it voted for.
func (c charter) checkReplica(dir string) error {
	replica := raftDir(dir, c.Epoch)
	if !c.Begun || raftstore.Holds(replica) {
		return nil
	}
	return fmt.Errorf("the replica of this node, %s, is missing: restore it, or have the node join the cluster anew with kontiki reset --membership", replica)
}

// begin notes that the replica is there.
func (c charter) begin(dir string) error {
	if c.Begun {
		return nil
	}
	c.Begun = true
	return c.write(dir)
}

// enter makes an admission durable: the charter first, the keys last, since the
// keys are what says that the node belongs to a cluster.
func enter(dir string, data []byte) (charter, error) {
	var a admission
	if err := json.Unmarshal(data, &a); err != nil {
		return charter{}, fmt.Errorf("the admission is not readable: %w", err)
	}
	if err := a.Charter.write(dir); err != nil {
		return charter{}, err
	}
	trust, err := pki.AcceptGrant(dir, a.Grant)
	if err != nil {
		return charter{}, err
	}
	if trust.ClusterID() != a.Charter.ClusterID {
		return charter{}, fmt.Errorf("the admission is to cluster %s, but its keys are of cluster %s", a.Charter.ClusterID, trust.ClusterID())
	}
	a.Charter.trust = trust
	trust.Authority = trust.Authority.InEpoch(string(a.Charter.Epoch))
	return a.Charter, nil
}

// admit makes the admission of a founder; joiner is the charter of one who comes later.
func (c charter) admit() ([]byte, error) {
	grant, err := c.trust.Grant()
	if err != nil {
		return nil, err
	}
	return json.Marshal(admission{Charter: c, Grant: grant})
}

func (c charter) joiner() charter {
	c.Founders, c.Nonvoters, c.Begun = nil, nil, false
	return c
}
