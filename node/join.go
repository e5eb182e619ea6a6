package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"kontiki/internal/port"
	"kontiki/pki"
)

// The join call is one JSON request and one JSON answer on a connection on which
// both ends have proven the join secret.

const (
	joinTimeout = 30 * time.Second
	joinRetry   = time.Second
	joinLimit   = 1 << 20 // bytes of a message
)

type joinRequest struct {
	NodeID    string `json:"nodeID"`
	Name      string `json:"name"`
	ClusterID string `json:"clusterID"`
	Replace   bool   `json:"replace,omitempty"` // take the name of a dead node
}

type joinAnswer struct {
	Admission json.RawMessage `json:"admission,omitempty"`
	Error     string          `json:"error,omitempty"`
}

// join asks the cluster's members in turn, again and again, to be let in.
func (n *node) join(ctx context.Context, clusterID string) (charter, error) {
	for {
		for _, m := range n.ring.Members() {
			if m.Self || m.ClusterID != clusterID {
				continue
			}
			data, err := n.askToJoin(ctx, m.ClusterAddr().String(), clusterID)
			if err == nil {
				n.problems.solved("join")
				return n.enterCluster(data)
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

// enterCluster makes an admission durable, unless this node cannot live with the
// cluster's settings.
func (n *node) enterCluster(data []byte) (charter, error) {
	var a admission
	if err := json.Unmarshal(data, &a); err != nil {
		return charter{}, fmt.Errorf("the admission is not readable: %w", err)
	}
	if err := n.fits(a.Charter.Settings); err != nil {
		return charter{}, err
	}
	return enter(n.cfg.DataDir, data)
}

func (n *node) askToJoin(ctx context.Context, addr, clusterID string) (json.RawMessage, error) {
	conn, err := n.port.DialProven(ctx, port.Join, addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	conn.SetDeadline(time.Now().Add(joinTimeout))
	if err := json.NewEncoder(conn).Encode(joinRequest{n.id.ID, n.cfg.Name, clusterID, n.cfg.Replace}); err != nil {
		return nil, err
	}
	var answer joinAnswer
	if err := json.NewDecoder(io.LimitReader(conn, joinLimit)).Decode(&answer); err != nil {
		return nil, err
	}
	if answer.Error != "" {
		return nil, errors.New(answer.Error)
	}
	return answer.Admission, nil
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

func (n *node) answerJoin(ctx context.Context, conn net.Conn) {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	var request joinRequest
	if err := json.NewDecoder(io.LimitReader(conn, joinLimit)).Decode(&request); err != nil {
		n.log.Warn("a node that wants to join sent no readable request", "peer", conn.RemoteAddr(), "err", err)
		return
	}
	var answer joinAnswer
	admission, err := n.letIn(ctx, request)
	if err != nil {
		n.problems.report("join/"+request.NodeID, fmt.Sprintf("node %s (%s) at %s wants to join and is refused: %v", request.Name, request.NodeID, hostOf(conn.RemoteAddr()), err))
		answer.Error = err.Error()
	}
	answer.Admission = admission
	if err := json.NewEncoder(conn).Encode(answer); err != nil {
		// It asks again; being let in twice changes nothing.
		n.log.Warn("a node that was let in did not hear it", "id", request.NodeID, "err", err)
	}
}

// letIn makes the node a non-voter and gives it the cluster's keys.
func (n *node) letIn(ctx context.Context, request joinRequest) ([]byte, error) {
	switch {
	case !pki.ValidID(request.NodeID):
		return nil, fmt.Errorf("%q is not a node id", request.NodeID)
	case len(request.Name) > 253 || !nodeName.MatchString(request.Name):
		return nil, fmt.Errorf("%q cannot name a node", request.Name)
	case request.ClusterID != n.charter.ClusterID:
		return nil, fmt.Errorf("this is cluster %s, not %s", n.charter.ClusterID, request.ClusterID)
	}
	view, err := n.store.Linearize(ctx)
	if err != nil {
		return nil, err
	}
	if r, removed := removalOf(view, request.NodeID); removed {
		return nil, fmt.Errorf("an operator removed node %s at %s; to let the machine in as a new node, stop it and start it with an empty data directory", request.NodeID, r.Time.Format(time.RFC3339))
	}
	if err := n.takeName(ctx, request.NodeID, request.Name, request.Replace); err != nil {
		return nil, err
	}
	if err := n.store.AddNonvoter(ctx, request.NodeID); err != nil {
		return nil, fmt.Errorf("add the node to the cluster: %w", err)
	}
	return n.charter.joiner().admit()
}

// claimName makes this node's name its own before it does anything under it. A node
// whose replica says that it has the name needs nobody for that.
func (n *node) claimName(ctx context.Context) error {
	if txn, holder := planClaim(n.store.View(), n.id.ID, n.cfg.Name); holder == "" && len(txn.Ops) == 0 {
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
