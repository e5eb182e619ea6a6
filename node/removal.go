package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"kontiki/pki"
	"kontiki/raftstore"
)

// errRemoved is why a node ends that an operator removed from its cluster.
var errRemoved = errors.New("an operator removed this node from its cluster")

// farewell is what a removed node keeps of its membership, so that it does not come
// back by itself.
type farewell struct {
	Cluster string    `json:"cluster"`
	Time    time.Time `json:"time"` // when it learned of its removal
}

func farewellPath(dir string) string { return filepath.Join(dir, "removed.json") }

func loadFarewell(dir string) (f farewell, removed bool, err error) {
	data, err := os.ReadFile(farewellPath(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return f, false, nil
	}
	if err != nil {
		return f, false, err
	}
	if err := json.Unmarshal(data, &f); err != nil {
		return f, true, nil // what counts is that it is there
	}
	return f, true, nil
}

// expelled makes the removal durable and returns errRemoved, which ends the node.
func (n *node) expelled(cluster string) error {
	data, err := json.Marshal(farewell{Cluster: cluster, Time: n.now().UTC().Truncate(time.Second)})
	if err != nil {
		return err
	}
	if err := pki.WriteFile(farewellPath(n.cfg.DataDir), data); err != nil {
		// It learns of its removal again as soon as it meets a member.
		n.log.Error("this node's removal cannot be stored", "err", err)
	}
	return errRemoved
}

// hearRemoval waits until a member tells in the ring that this node was removed: how
// a node learns that was away.
func (n *node) hearRemoval(ctx context.Context) error {
	changed, stop := n.ring.Watch()
	defer stop()
	for {
		if n.ring.Removed() {
			return n.expelled(n.cluster())
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// followRemovals shuts out whom the store's records say are removed, this node, too.
func (n *node) followRemovals(ctx context.Context) error {
	for ctx.Err() == nil {
		view := n.store.View()
		ids := removedIDs(view)
		n.ring.SetRemoved(ids)
		n.port.Bar(ids)
		if slices.Contains(ids, n.id.ID) {
			return n.expelled(n.charter.ClusterID)
		}
		if err := awaitChange(ctx, n.store, removedPrefix, view.Revision()); err != nil {
			return err
		}
	}
	return nil
}

// awaitChange returns once a key below prefix may have changed after a revision, or
// ctx has ended.
func awaitChange(ctx context.Context, store *raftstore.Store, prefix string, after uint64) error {
	watch, err := store.Watch(prefix, after)
	if errors.Is(err, raftstore.ErrDiffers) {
		return lookAgain(ctx, store.AwaitServing(ctx))
	}
	if err != nil {
		return lookAgain(ctx, err)
	}
	defer watch.Close()
	for {
		events, _, err := watch.Next(ctx)
		if errors.Is(err, raftstore.ErrDiffers) {
			return lookAgain(ctx, store.AwaitServing(ctx)) // what was read before may be wrong
		}
		if err != nil || len(events) > 0 {
			return lookAgain(ctx, err)
		}
	}
}

// lookAgain takes the errors of a watch that a fresh look at the store answers.
func lookAgain(ctx context.Context, err error) error {
	if ctx.Err() != nil || errors.Is(err, raftstore.ErrCompacted) {
		return nil
	}
	return err
}

// standAside is what is left of a node that was removed: it stops its pods, says
// what happened, and waits to be stopped. Being started again changes nothing.
func (n *node) standAside(ctx context.Context, f farewell) error {
	n.problems.report("removed", fmt.Sprintf(
		"an operator removed this node from cluster %s; it stays out. To let this machine in as a new node, stop kontiki, empty %s and start it",
		f.Cluster, n.cfg.DataDir))
	ctx, life := newLifecycle(ctx, n.log)
	defer life.stop()
	if err := n.startAdmin(life); err != nil {
		return err
	}
	n.phase.Store("removed from its cluster; stopping its pods")
	if err := teardown(ctx, n.cfg); err != nil && ctx.Err() == nil {
		n.problems.report("teardown", fmt.Sprintf("not everything that this node made could be removed: %v; try again with: kontiki node --teardown", err))
	}
	n.phase.Store("removed from its cluster")
	<-ctx.Done()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}
