package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"kontiki/apiserver"
	"kontiki/gossip"
	"kontiki/raftstore"
	"kontiki/runtime/agent"
)

// errNameTaken is returned for a name that another node has.
var errNameTaken = errors.New("the name is taken")

// errOwnRemoval is returned to a node that is asked to remove itself.
var errOwnRemoval = errors.New("a node cannot remove itself: run this on another node of the cluster")

// alive tells whether a node answers, as far as the ring knows.
func (n *node) alive(id string) bool {
	return slices.ContainsFunc(n.ring.Members(), func(m gossip.Member) bool {
		return m.ID == id && m.State == gossip.StateAlive
	})
}

// remove removes a member by the operator's will: it is told so, refused from then
// on, and does not come back by itself.
func (n *node) remove(ctx context.Context, ref string) (string, error) {
	id, err := n.findMember(ref)
	if err != nil {
		return "", err
	}
	if err := n.removeMember(ctx, id); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s is removed. It stops its pods and stays out; to let the machine in as a new node, stop it and start it with an empty data directory. It knew the join secret and the cluster's keys: change the secret with kontiki secret rotate, and treat the machine as one that holds the keys", ref), nil
}

func (n *node) removeMember(ctx context.Context, id string) error {
	if id == n.id.ID {
		return errOwnRemoval
	}
	if err := checkVotes("removing node "+id, votersOf(n.store.Members(), id), n.alive); err != nil {
		return err
	}
	view, err := n.store.Linearize(ctx)
	if err != nil {
		return err
	}
	r := removal{ID: id, Name: n.nameOf(view, id), Time: n.now().UTC().Truncate(time.Second)}
	for {
		txn := planRemoval(view, r)
		if len(txn.Ops) == 0 {
			break
		}
		res, err := n.store.Apply(ctx, txn)
		if err != nil {
			return fmt.Errorf("record the removal: %w", err)
		}
		if res.Succeeded {
			break
		}
		if view, err = n.store.Linearize(ctx); err != nil {
			return err
		}
	}
	// The record alone shuts the node out; a leader finishes what is cut off here.
	if err := n.store.Remove(ctx, id); err != nil {
		return fmt.Errorf("the node is shut out, but it is still counted as a member: %w; try again", err)
	}
	n.log.Warn("an operator removed a node", "node", r.Name, "id", id)
	if err := n.deleteNodeObject(ctx, r.Name, id); err != nil {
		return fmt.Errorf("the node is removed, but its Node object is not: %w; delete it with: kontiki kubectl delete node %s", err, r.Name)
	}
	return nil
}

// finishRemovals ends memberships whose removal was recorded and then cut off. The
// leader calls it at the beginning of its term.
func (n *node) finishRemovals(ctx context.Context) error {
	removed := removedIDs(n.store.View())
	for _, m := range n.store.Members() {
		if slices.Contains(removed, m.ID) && m.ID != n.id.ID {
			if err := n.store.Remove(ctx, m.ID); err != nil {
				return fmt.Errorf("finish the removal of node %s: %w", m.ID, err)
			}
		}
	}
	return nil
}

// deleteNodeObject deletes the Node of a removed member, and only that: a new
// member may have taken the name.
func (n *node) deleteNodeObject(ctx context.Context, name, id string) error {
	if name == "" {
		return nil
	}
	select { // a node that begins hears its operator before it has an API
	case <-n.served:
	case <-ctx.Done():
		return errors.New("this node does not serve the API yet")
	}
	client, err := kubernetes.NewForConfig(n.api.Client(apiserver.Self()))
	if err != nil {
		return err
	}
	object, err := client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if owner := object.Annotations[agent.NodeIDAnnotation]; owner != "" && owner != id {
		return nil
	}
	err = client.CoreV1().Nodes().Delete(ctx, name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(object.UID))})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// stampEpoch has the names' records of members say that they are of this epoch, so that
// one of them that is taken out of the Raft group later is not held for one that was left
// behind by a recovery.
func (n *node) stampEpoch(ctx context.Context, ids []string, term uint64) error {
	for view := n.store.View(); ; {
		txn := planStamp(view, ids, n.charter.Epoch)
		if len(txn.Ops) == 0 {
			return nil
		}
		txn.Term = term
		res, err := n.store.Apply(ctx, txn)
		if err == nil && !res.Succeeded {
			view, err = n.store.Linearize(ctx)
		}
		if err != nil {
			return fmt.Errorf("note that nodes are members of this epoch: %w", err)
		}
		if res.Succeeded {
			return nil
		}
	}
}

// nameOf is the name of a member: as recorded, else as the ring knows it.
func (n *node) nameOf(view raftstore.View, id string) string {
	if name := names(view)[id]; name != "" {
		return name
	}
	for _, m := range n.ring.Members() {
		if m.ID == id {
			return m.Name
		}
	}
	return ""
}

// findMember finds a member's id by its id or name, also that of one that was taken out
// until it is back. A node whose removal was cut off is found by the name that it had.
func (n *node) findMember(ref string) (string, error) {
	view := n.store.View()
	var ids, known []string
	for _, m := range n.store.Members() {
		ids = append(ids, m.ID)
	}
	for id := range names(view) {
		if id != "" && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	for _, id := range ids {
		name := n.nameOf(view, id)
		if r, removed := removalOf(view, id); removed && name == "" {
			name = r.Name
		}
		if ref == id || ref != "" && ref == name {
			return id, nil
		}
		known = append(known, fmt.Sprintf("%s (%s)", name, id))
	}
	return "", fmt.Errorf("the cluster has no member %q; it has %s", ref, strings.Join(known, ", "))
}

// takeName makes name the node's, if no other living node has it. With replace, a
// dead node that has it is removed.
func (n *node) takeName(ctx context.Context, id, name string, replace bool) error {
	for {
		view, err := n.store.Linearize(ctx)
		if err != nil {
			return err
		}
		txn, holder := planClaim(view, id, name, n.charter.Epoch)
		if holder == "" && len(txn.Ops) == 0 {
			return nil
		}
		if holder != "" {
			if err := n.mayReplace(holder, name, replace); err != nil {
				return err
			}
			n.log.Warn("a node takes the place of a dead one", "node", name, "id", id, "dead", holder)
			if err := n.removeMember(ctx, holder); err != nil {
				return fmt.Errorf("replace node %s: %w", holder, err)
			}
			continue
		}
		if res, err := n.store.Apply(ctx, txn); err != nil || res.Succeeded {
			return err
		}
	}
}

// mayReplace tells whether the node that has a name may lose it to another.
func (n *node) mayReplace(holder, name string, replace bool) error {
	var at netip.AddrPort
	for _, m := range n.ring.Members() {
		if m.ID != holder {
			continue
		}
		at = m.ClusterAddr()
		switch m.State {
		case gossip.StateAlive:
			return fmt.Errorf("%w: node %s at %s is called %s and is alive; choose another with --name", errNameTaken, holder, at, name)
		case gossip.StateUnknown:
			return fmt.Errorf("%w: node %s is called %s, and it is not known yet whether it lives", errNameTaken, holder, name)
		}
	}
	if replace {
		return nil
	}
	return fmt.Errorf("%w: node %s, last seen at %s, is called %s and does not answer; if this machine replaces it, start it with --replace, or remove the other one with: kontiki members remove %s; else choose another with --name",
		errNameTaken, holder, at, name, name)
}
