package node

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"kontiki/gossip"
	"kontiki/internal/port"
	"kontiki/raftstore"
)

const (
	joinTimeout = 30 * time.Second
	joinRetry   = time.Second
)

// join asks the cluster's members in turn, again and again, to be let in.
func (n *node) join(ctx context.Context, clusterID string) (charter, error) {
	for {
		for _, m := range n.fellowsOf(clusterID) {
			data, err := n.askToJoin(ctx, m.ClusterAddr().String(), clusterID, m.Epoch)
			if err == nil {
				n.problems.solved("join")
				return enter(n.cfg.DataDir, data)
			}
			if ctx.Err() == nil {
				n.problems.report("join", fmt.Sprintf("this node is not let into cluster %s: %v; it goes on asking", clusterID, err))
			}
		}
		select {
		case <-time.After(joinRetry):
		case <-ctx.Done():
			return charter{}, context.Cause(ctx)
		}
	}
}

// fellowsOf are the members of a cluster that can let this node in: those of its latest
// epoch in sight.
func (n *node) fellowsOf(clusterID string) []gossip.Member {
	all := slices.DeleteFunc(n.ring.Members(), func(m gossip.Member) bool {
		return m.Self || m.ClusterID != clusterID
	})
	// As formation sees it: who is gone does not tell which epoch is the latest, unless nobody else is there.
	living := slices.DeleteFunc(slices.Clone(all), func(m gossip.Member) bool { return m.State != gossip.StateAlive })
	if len(living) > 0 {
		return gossip.LatestEpoch(living)
	}
	return gossip.LatestEpoch(all)
}

func (n *node) askToJoin(ctx context.Context, addr, clusterID, epoch string) (json.RawMessage, error) {
	conn, err := n.port.DialProven(ctx, port.Join, addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	conn.SetDeadline(time.Now().Add(joinTimeout))
	return askToJoin(conn, joinRequest{n.id.ID, n.cfg.Name, clusterID, n.cfg.Replace, epoch, int(raftstore.CommandVersion)}, n.fits)
}

// serveJoin lets blank nodes in.
func (n *node) serveJoin(ctx context.Context) error {
	listener := n.port.Listener(port.Join)
	defer context.AfterFunc(ctx, func() { listener.Close() })()
	var calls sync.WaitGroup
	defer calls.Wait()
	for {
		conn, err := listener.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		calls.Go(func() { n.answerJoin(ctx, conn) })
	}
}

func (n *node) answerJoin(life context.Context, conn net.Conn) {
	ctx, cancel := context.WithTimeout(life, joinTimeout)
	defer cancel()
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	request, err := answerToJoin(conn, n.charter, func(r joinRequest) ([]byte, error) { return n.letIn(ctx, r) })
	key := "join/" + request.NodeID
	if err == nil {
		n.problems.solved(key)
	} else if life.Err() == nil {
		n.problems.report(key, fmt.Sprintf("node %s (%s) at %s wants to join and is not let in: %v", request.Name, request.NodeID, hostOf(conn.RemoteAddr()), err))
	}
}

// letIn makes the node a non-voter and gives it the cluster's keys.
func (n *node) letIn(ctx context.Context, request joinRequest) ([]byte, error) {
	view, err := n.store.Linearize(ctx)
	if err != nil {
		return nil, err
	}
	if r, removed := removalOf(view, request.NodeID); removed {
		return nil, fmt.Errorf("an operator removed node %s at %s; to let the machine in as a new node, stop it and start it with an empty data directory", request.NodeID, r.Time.Format(time.RFC3339))
	}
	knows := max(request.Knows, 1)
	if err := n.store.Admits(knows); err != nil { // before it is given a name; the leader looks again
		return nil, err
	}
	if err := n.takeName(ctx, request.NodeID, request.Name, request.Replace); err != nil {
		return nil, err
	}
	if err := n.store.Admit(ctx, request.NodeID, knows); err != nil {
		return nil, fmt.Errorf("add the node to the cluster: %w", err)
	}
	if err := n.stampEpoch(ctx, []string{request.NodeID}, 0); err != nil {
		return nil, err
	}
	return n.charter.joiner().admit()
}

// claimName makes this node's name its own before it does anything under it. A node
// whose replica says that it has the name needs nobody for that.
func (n *node) claimName(ctx context.Context) error {
	if txn, holder := planClaim(n.store.View(), n.id.ID, n.cfg.Name, n.charter.Epoch); holder == "" && len(txn.Ops) == 0 {
		return nil
	}
	n.phase.Store("registering its name, " + n.cfg.Name)
	for {
		attempt, cancel := context.WithTimeout(ctx, joinTimeout)
		err := n.takeName(attempt, n.id.ID, n.cfg.Name, n.cfg.Replace)
		cancel()
		if err == nil {
			n.problems.solved("name")
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n.problems.report("name", fmt.Sprintf("this node runs no pods, because its name cannot be registered: %v", err))
		select {
		case <-time.After(joinRetry):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
