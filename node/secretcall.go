package node

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"kontiki/gossip"
	"kontiki/internal/port"
)

// A member that was away while the join secret was changed is a stranger to the ring.
// Mostly the leader's Raft reaches it where it was before, and its replica tells it the
// new secret. If it has moved, it asks: members trust each other's certificates, and
// need no secret for that. So does a node learn that it was removed meanwhile.

const (
	secretCallTimeout = 5 * time.Second
	secretAskFirst    = 2 * time.Second // without a leader, before the first question
	secretAskMost     = 15 * time.Second
	secretAnswerLimit = 16 << 10
)

// secretAnswer is what a member is told; the record as the store holds it, sealed.
type secretAnswer struct {
	Cluster string          `json:"cluster"`
	Removed bool            `json:"removed,omitempty"`
	Record  json.RawMessage `json:"record,omitempty"`
}

// serveSecret answers members that ask.
func (n *node) serveSecret(ctx context.Context) error {
	listener := n.port.Listener(port.Secret)
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
		calls.Go(func() { n.answerSecret(conn) })
	}
}

func (n *node) answerSecret(conn net.Conn) {
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(secretCallTimeout))
	view := n.store.View()
	answer := secretAnswer{Cluster: n.charter.ClusterID}
	guest, ok := conn.(port.Guest)
	if !ok {
		panic("node: a connection of a member protocol that has no member")
	}
	if _, removed := removalOf(view, guest.NodeID()); removed {
		answer.Removed = true
	} else if kv, found := view.Get(secretKey); found {
		answer.Record = kv.Value
	}
	if err := json.NewEncoder(conn).Encode(answer); err != nil {
		n.log.Debug("a member did not hear the join secret; it asks again", "id", guest.NodeID(), "err", err)
	}
}

// askForSecret asks members that the ring does not reach, while no leader reaches this
// node.
func (n *node) askForSecret(ctx context.Context) error {
	changed, stop := n.store.WatchLeadership()
	defer stop()
	pause := secretAskFirst
	for {
		var due <-chan time.Time
		if n.store.Leadership().LeaderID == "" {
			due = time.After(pause)
		} else {
			pause = secretAskFirst
		}
		select {
		case <-changed:
		case <-due:
			pause = min(2*pause, secretAskMost)
			if err := n.askAround(ctx); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// askAround asks one member after the other, until one knows a later step.
func (n *node) askAround(ctx context.Context) error {
	for _, m := range n.ring.Members() {
		if m.Self || m.ClusterID != n.charter.ClusterID || m.State == gossip.StateAlive || !m.Addr.IsValid() {
			continue
		}
		if taken, err := n.askMember(ctx, m.ID, m.ClusterAddr().String()); taken || err != nil {
			return err
		}
	}
	for _, name := range n.cfg.Join {
		addr := name
		if _, _, err := net.SplitHostPort(name); err != nil {
			addr = net.JoinHostPort(name, fmt.Sprint(n.cfg.Port))
		}
		if taken, err := n.askMember(ctx, "", addr); taken || err != nil {
			return err
		}
	}
	return nil
}

// askMember returns whether the member knew more than this node, and errRemoved if it
// says that this node was removed.
func (n *node) askMember(ctx context.Context, id, addr string) (taken bool, err error) {
	answer, err := n.callSecret(ctx, id, addr)
	if err != nil {
		n.log.Debug("a member was not reached by who asks for the join secret", "id", id, "address", addr, "err", err)
		return false, nil
	}
	switch {
	case answer.Cluster != n.charter.ClusterID:
		return false, nil
	case answer.Removed:
		return false, n.expelled(n.charter.ClusterID)
	case answer.Record == nil:
		return false, nil
	}
	r, err := n.charter.trust.OpenRotation(answer.Record)
	if err == nil && r.Step > n.rotation().Step {
		n.log.Info("a member told this node the join secret, which was changed while it was away", "id", id, "address", addr)
		err = n.takeSecret(r)
		taken = err == nil
	}
	if err != nil {
		n.problems.report("secret-step", fmt.Sprintf("this node cannot take the cluster's new join secret: %v; it tries again", err))
	}
	return taken, nil
}

func (n *node) callSecret(ctx context.Context, id, addr string) (answer secretAnswer, err error) {
	ctx, cancel := context.WithTimeout(ctx, secretCallTimeout)
	defer cancel()
	conn, err := n.port.DialMember(ctx, port.Secret, id, addr)
	if err != nil {
		return answer, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	return answer, json.NewDecoder(io.LimitReader(conn, secretAnswerLimit)).Decode(&answer)
}
