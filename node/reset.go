package node

import (
	"errors"
	"fmt"
	"path/filepath"

	"kontiki/gossip"
)

// ResetFormation makes a stopped, blank node forget what it promised to others about
// founding a cluster. A node that belongs to a cluster has nothing to forget.
func ResetFormation(dataDir string) error {
	unlock, err := lockUsed(dataDir)
	if err != nil {
		return err
	}
	defer unlock()
	switch c, err := loadCharter(dataDir); {
	case err == nil:
		return fmt.Errorf("this node belongs to cluster %s: to leave it, remove it on another node with: kontiki members remove, then empty %s", c.ClusterID, dataDir)
	case !errors.Is(err, errBlank):
		return err
	}
	return gossip.ResetFormation(filepath.Join(dataDir, "ring"))
}
