package node

import (
	"path/filepath"

	"kontiki/raftstore"
)

// raftDir is where a node keeps its replica of an epoch. Which one counts is said by the
// charter alone, so that a new epoch begins with one write of one file.
func raftDir(dataDir string, epoch raftstore.Epoch) string {
	if epoch == "" {
		return filepath.Join(dataDir, "raft")
	}
	return filepath.Join(dataDir, "raft-"+string(epoch))
}

func ringDir(dataDir string) string { return filepath.Join(dataDir, "ring") }

// charterEpoch is the epoch that this node is in, as its files say; the ring asks before
// boot has come to the charter.
func (n *node) charterEpoch() raftstore.Epoch {
	for _, m := range n.ring.Members() {
		if m.Self {
			return raftstore.Epoch(m.Epoch)
		}
	}
	return ""
}
