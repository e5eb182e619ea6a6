package node

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"kontiki/gossip"
	"kontiki/pki"
	"kontiki/raftstore"
)

// SnapshotKey is the id of the key-encryption key that opens what is sealed in a state.
func SnapshotKey(view raftstore.View) (string, error) {
	kv, found := view.Get(trustKey)
	if !found {
		return "", errors.New("the state holds no keys of a cluster: its first leader had not written them yet")
	}
	return pki.SealedWith(kv.Value)
}

// Restored is what Restore has made.
type Restored struct {
	Cluster  string          `json:"cluster"`
	Epoch    raftstore.Epoch `json:"epoch"`
	NodeID   string          `json:"nodeID"`
	Revision uint64          `json:"revision"`
}

// RestoreConfig says into what a snapshot is restored. Key is the text of the
// key-encryption key's file.
type RestoreConfig struct {
	DataDir  string
	Key      string
	LogStore raftstore.LogStore
	Logger   *slog.Logger
	Now      func() time.Time
}

// Restore makes a blank data directory that of the first node of a new epoch, with the
// state that an archive holds. Nothing is written before all of the archive was read
// and the key has opened what is sealed in it; the node belongs to the cluster once the
// cluster's keys are written, which is last.
func Restore(archive io.Reader, cfg RestoreConfig) (Restored, error) {
	unlock, err := lockDir(cfg.DataDir)
	if err != nil {
		return Restored{}, err
	}
	defer unlock()
	if err := mustBeBlank(cfg.DataDir); err != nil {
		return Restored{}, err
	}
	a, err := raftstore.ReadArchive(archive)
	if err != nil {
		return Restored{}, err
	}
	now := cfg.Now()
	if now.Before(a.Taken.Add(-clockSlack)) {
		return Restored{}, fmt.Errorf("this machine's clock says %s, and the snapshot is of %s: set the clock, by which the epoch and the first revision are chosen beyond all that may have been since", now.UTC().Format(time.RFC3339), a.Taken.UTC().Format(time.RFC3339))
	}
	c, err := charterIn(a, cfg.Key, now)
	if err != nil {
		return Restored{}, err
	}
	if err := sweepReplicas(cfg.DataDir, ""); err != nil {
		return Restored{}, err
	}
	id, err := pki.LoadIdentity(cfg.DataDir)
	if err != nil {
		return Restored{}, err
	}
	out := Restored{Cluster: c.ClusterID, Epoch: c.Epoch, NodeID: id.ID, Revision: raftstore.LiftedRevision(a.Revision, now)}
	err = a.Begin(raftDir(cfg.DataDir, c.Epoch), raftstore.Beginning{
		NodeID: id.ID, ClusterID: c.ClusterID, Epoch: c.Epoch, Log: cfg.LogStore, Revision: out.Revision,
		Without: namesPrefix, // all nodes of this epoch are new ones, and may have the names of old ones
	}, cfg.Logger)
	if err != nil {
		return Restored{}, err
	}
	if err := c.write(cfg.DataDir); err != nil {
		return Restored{}, err
	}
	return out, c.trust.Write(cfg.DataDir)
}

// clockSlack is how far clocks may differ: raftstore.LiftedRevision leaves room for an hour's writes.
const clockSlack = time.Hour

// mustBeBlank refuses a directory of a node that belongs to a cluster, or may be about to.
func mustBeBlank(dataDir string) error {
	const how = "a snapshot is restored into the data directory of a blank node: give an empty one, or make this node blank with kontiki reset --membership"
	switch c, err := loadCharter(dataDir); {
	case err == nil:
		return fmt.Errorf("%s belongs to a node of cluster %s: %s", dataDir, c.ClusterID, how)
	case !errors.Is(err, errBlank):
		return fmt.Errorf("%w: %s", err, how)
	}
	if _, err := os.Stat(raftDir(dataDir, "")); err == nil {
		return fmt.Errorf("%s exists: %s", raftDir(dataDir, ""), how)
	}
	if promised, err := gossip.HasPromised(ringDir(dataDir)); err != nil {
		return err
	} else if promised {
		return fmt.Errorf("%s belongs to a node that may have promised to found a cluster with others: if it has not, run kontiki reset --formation first", dataDir)
	}
	return nil
}

// charterIn makes the charter of the epoch that begins with an archive.
func charterIn(a *raftstore.Archive, key string, now time.Time) (charter, error) {
	view := a.View()
	sealed, found := view.Get(trustKey)
	if !found {
		return charter{}, errors.New("the snapshot holds no keys of a cluster: nothing can be restored from it")
	}
	trust, err := pki.OpenSealed(sealed.Value, key)
	if err != nil {
		return charter{}, err
	}
	if trust.ClusterID() != a.ClusterID {
		return charter{}, fmt.Errorf("the snapshot is of cluster %s, and the keys in it of cluster %s", a.ClusterID, trust.ClusterID())
	}
	settings, found := view.Get(settingsKey)
	if !found {
		return charter{}, errors.New("the snapshot holds no settings of a cluster: nothing can be restored from it")
	}
	c := charter{ClusterID: a.ClusterID, Epoch: a.Epoch.NextAt(now), trust: trust}
	if c.Settings, err = decodeSettings(settings.Value); err != nil {
		return charter{}, err
	}
	return c, c.Settings.validate()
}

// ResetMembership makes a stopped node blank that belongs, or belonged, to a cluster: it
// forgets the cluster, its keys and its replica, and keeps who it is, its name, and its
// images. confirm is told the cluster and may refuse. A crash leaves the node blank, or as
// it was; another run finishes.
func ResetMembership(dataDir string, confirm func(cluster string, epoch raftstore.Epoch) error) error {
	unlock, err := lockUsed(dataDir)
	if err != nil {
		return err
	}
	defer unlock()
	if f, removed, err := loadFarewell(dataDir); err != nil {
		return err
	} else if removed {
		return fmt.Errorf("an operator removed this node from cluster %s: it comes back as a new node, with an empty data directory", f.Cluster)
	}
	switch c, err := loadCharter(dataDir); {
	case err == nil:
		if err := confirm(c.ClusterID, c.Epoch); err != nil {
			return err
		}
	default: // damaged files, or a reset that was cut off: there may be a promise, or a replica
		if err := confirm("unknown", ""); err != nil {
			return err
		}
	}
	if err := gossip.ResetFormation(ringDir(dataDir)); err != nil { // a founder without keys would not start
		return err
	}
	if err := pki.RemoveTrust(dataDir); err != nil { // from here on the node is blank
		return err
	}
	replicas, err := filepath.Glob(filepath.Join(dataDir, "raft-*"))
	if err != nil {
		return err
	}
	for _, path := range append(replicas, raftDir(dataDir, ""), charterPath(dataDir)) {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return gossip.Forget(ringDir(dataDir))
}
