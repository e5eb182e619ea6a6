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
				return enter(n.cfg.DataDir, data)
			}
			n.log.Warn("joining failed; will ask again", "cluster", clusterID, "through", m.Name, "err", err)
		}
		select {
		case <-time.After(joinRetry):
		case <-ctx.Done():
			return charter{}, context.Cause(ctx)
		}
	}
}

func (n *node) askToJoin(ctx context.Context, addr, clusterID string) (json.RawMessage, error) {
	conn, err := n.port.DialProven(ctx, port.Join, addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	conn.SetDeadline(time.Now().Add(joinTimeout))
	if err := json.NewEncoder(conn).Encode(joinRequest{n.id.ID, n.cfg.Name, clusterID}); err != nil {
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
		n.log.Warn("refused a node that wants to join", "id", request.NodeID, "name", request.Name, "err", err)
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
	case request.ClusterID != n.charter.ClusterID:
		return nil, fmt.Errorf("this is cluster %s, not %s", n.charter.ClusterID, request.ClusterID)
	}
	if err := n.store.AddNonvoter(ctx, request.NodeID); err != nil {
		return nil, fmt.Errorf("add the node to the cluster: %w", err)
	}
	return n.charter.admit(nil)
}
