package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"kontiki/gossip"
	"kontiki/raftstore"
)

// Recovery makes one survivor the only voter of a new epoch of its cluster. It works on
// the data directory of a stopped node, in this order:
//
//	raft-EPOCH.part   the new replica in the making
//	raft-EPOCH        whole, and meaningless
//	cluster.json      names the epoch: from here on the node is in it
//
// So a crash at any point leaves the node in the old epoch or in the new one, and another
// run begins anew. The replica of the old epoch stays where it is.

// Survivor is what one replica holds, to the end of its log.
type Survivor struct {
	ID       string     `json:"id"`
	Name     string     `json:"name,omitempty"`
	LogTerm  uint64     `json:"logTerm"`
	LogIndex uint64     `json:"logIndex"`
	LogTime  *time.Time `json:"logTime,omitempty"` // of the last entry, by the clock of the leader of then
	Revision uint64     `json:"revision"`          // of what is known to be committed
	Damaged  bool       `json:"damaged,omitempty"` // it is being refilled
}

// further orders survivors as Raft's elections do, the furthest first and damaged ones last.
func further(a, b Survivor) int {
	switch {
	case a.Damaged != b.Damaged:
		if a.Damaged {
			return 1
		}
		return -1
	case a.LogTerm != b.LogTerm:
		return compareDown(a.LogTerm, b.LogTerm)
	case a.LogIndex != b.LogIndex:
		return compareDown(a.LogIndex, b.LogIndex)
	}
	return strings.Compare(a.ID, b.ID)
}

func compareDown(a, b uint64) int {
	if a > b {
		return -1
	}
	return 1
}

// Survey is what running survivors hold.
type Survey struct {
	Self      string     `json:"self"` // id of the node that was asked
	Cluster   string     `json:"cluster"`
	Epoch     string     `json:"epoch,omitempty"`
	Leader    string     `json:"leader,omitempty"`
	Voters    int        `json:"voters"`
	Survivors []Survivor `json:"survivors"` // the furthest first
	Away      []string   `json:"away"`      // members that do not answer
}

// survey asks every member that answers.
func (n *node) survey(ctx context.Context) Survey {
	began, raft := time.Now(), n.store.Status()
	known := map[string]gossip.Member{}
	for _, m := range n.ring.Members() {
		known[m.ID] = m
	}
	answers := n.askPeers(ctx, raft, known)
	named := names(n.store.View())
	s := Survey{Self: n.id.ID, Cluster: n.charter.ClusterID, Epoch: string(n.charter.Epoch), Leader: raft.LeaderID, Away: []string{}}
	for _, m := range raft.Members {
		if m.Voter {
			s.Voters++
		}
		said, name := answers[m.ID], named[m.ID]
		if name == "" {
			name = known[m.ID].Name
		}
		if said.at.Before(began) { // what it said earlier is not what it holds
			s.Away = append(s.Away, strings.TrimSpace(name+" ("+m.ID+")"))
			continue
		}
		s.Survivors = append(s.Survivors, Survivor{
			ID: m.ID, Name: name, Revision: said.status.Revision, Damaged: said.status.Damaged,
			LogTerm: said.status.LogTerm, LogIndex: said.status.LogIndex, LogTime: timeOrNil(said.status.LogTime.Time()),
		})
	}
	slices.SortFunc(s.Survivors, further)
	return s
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// RecoveryPlan is what Recover would do.
type RecoveryPlan struct {
	Cluster      string             `json:"cluster"`
	Held         Survivor           `json:"held"` // by this node
	Committed    uint64             `json:"committed"`
	Members      []raftstore.Member `json:"members"`
	Epoch        raftstore.Epoch    `json:"epoch,omitempty"`
	Next         raftstore.Epoch    `json:"next"`
	NextRevision uint64             `json:"nextRevision"`
	names        map[string]string  // of members, by id
	holding      raftstore.Holding  // what the plan is made of
}

// Others names the members that the new epoch does not have.
func (p RecoveryPlan) Others() []string {
	var out []string
	for _, m := range p.Members {
		if m.ID == p.Held.ID {
			continue
		}
		role := "non-voter"
		if m.Voter {
			role = "voter"
		}
		name := p.names[m.ID]
		if name == "" {
			name = "?"
		}
		out = append(out, fmt.Sprintf("%s (%s, %s)", name, m.ID, role))
	}
	return out
}

// Recover plans a recovery on a stopped node's data directory, and carries it out if
// confirm returns nil. It returns what confirm returns otherwise; nothing is changed then.
func Recover(dataDir string, log *slog.Logger, now func() time.Time, confirm func(RecoveryPlan) error) (RecoveryPlan, error) {
	unlock, err := lockUsed(dataDir)
	if err != nil {
		return RecoveryPlan{}, err
	}
	defer unlock()
	if f, removed, err := loadFarewell(dataDir); err != nil {
		return RecoveryPlan{}, err
	} else if removed {
		return RecoveryPlan{}, fmt.Errorf("an operator removed this node from cluster %s: recover another member", f.Cluster)
	}
	c, err := loadCharter(dataDir)
	if errors.Is(err, errBlank) {
		return RecoveryPlan{}, fmt.Errorf("%s: %w: there is nothing to recover", dataDir, err)
	}
	if err != nil {
		return RecoveryPlan{}, err
	}
	plan, err := planRecovery(dataDir, c, log, now())
	if err != nil {
		return plan, err
	}
	if err := confirm(plan); err != nil {
		return plan, err
	}
	return plan, carryOut(dataDir, c, plan, log)
}

func planRecovery(dataDir string, c charter, log *slog.Logger, now time.Time) (RecoveryPlan, error) {
	h, err := raftstore.Examine(raftDir(dataDir, c.Epoch), log)
	if err != nil {
		return RecoveryPlan{}, fmt.Errorf("this node's replica cannot be used, try another survivor: %w", err)
	}
	if h.ClusterID != c.ClusterID {
		return RecoveryPlan{}, fmt.Errorf("%s is of cluster %s, but this node is of cluster %s: parts of two data directories were mixed", raftDir(dataDir, c.Epoch), h.ClusterID, c.ClusterID)
	}
	view := h.View()
	p := RecoveryPlan{
		Cluster: c.ClusterID, Committed: h.Committed, Members: h.Members, Epoch: c.Epoch, Next: c.Epoch.Next(),
		Held:         Survivor{ID: h.NodeID, LogTerm: h.LogTerm, LogIndex: h.LogIndex, LogTime: timeOrNil(h.LogTime), Revision: view.Revision()},
		NextRevision: raftstore.LiftedRevision(view.Revision(), now),
		names:        names(view), holding: h,
	}
	p.Held.Name = p.names[h.NodeID]
	return p, nil
}

// carryOut writes the new replica, and then the charter.
func carryOut(dataDir string, c charter, p RecoveryPlan, log *slog.Logger) error {
	if err := sweepReplicas(dataDir, c.Epoch); err != nil {
		return err
	}
	err := p.holding.Begin(raftDir(dataDir, p.Next), raftstore.Beginning{
		NodeID: p.Held.ID, ClusterID: p.Cluster, Epoch: p.Next, Log: p.holding.Log, Revision: p.NextRevision,
		Index: p.holding.LogIndex, Term: p.holding.LogTerm,
	}, log)
	if err != nil {
		return fmt.Errorf("write the replica of the new epoch (nothing was changed): %w", err)
	}
	c.Epoch, c.Founders, c.Nonvoters = p.Next, nil, nil
	if err := c.write(dataDir); err != nil {
		return fmt.Errorf("enter the new epoch: %w", err)
	}
	return nil
}

// sweepReplicas removes what a recovery or restore left that did not come to its end.
// The replicas of this epoch and of earlier ones stay.
func sweepReplicas(dataDir string, epoch raftstore.Epoch) error {
	found, err := filepath.Glob(filepath.Join(dataDir, "raft-*"))
	if err != nil {
		return err
	}
	for _, path := range found {
		e := raftstore.Epoch(strings.TrimPrefix(filepath.Base(path), "raft-"))
		if e.Valid() == nil && (e == epoch || e.Number() < epoch.Number()) {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}
