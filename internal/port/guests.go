package port

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"sync"
)

// ErrBarred is returned for a member that was shut out by Bar.
var ErrBarred = errors.New("an operator removed it from the cluster")

// guests are the incoming connections of members, by node id, so that a member
// that is shut out loses those that it has. The zero value is ready to use.
type guests struct {
	mu     sync.Mutex // protects what follows
	conns  map[string]map[*guest]struct{}
	barred map[string]bool
}

// Guest is a connection of a member protocol, as its listener yields it.
type Guest interface {
	net.Conn
	// NodeID is the member at the other end.
	NodeID() string
}

// guest is one such connection.
type guest struct {
	*tls.Conn
	nodeID string
	of     *guests
}

// NodeID implements Guest.
func (g *guest) NodeID() string { return g.nodeID }

func (g *guest) Close() error {
	g.of.mu.Lock()
	delete(g.of.conns[g.nodeID], g)
	if len(g.of.conns[g.nodeID]) == 0 {
		delete(g.of.conns, g.nodeID)
	}
	g.of.mu.Unlock()
	return g.Conn.Close()
}

func (gs *guests) welcome(conn *tls.Conn, protocol string, m *Membership, verify func(*Membership, *x509.Certificate) (string, error)) (net.Conn, error) {
	if m == nil {
		return nil, ErrNoMember
	}
	id, err := verify(m, conn.ConnectionState().PeerCertificates[0])
	if err != nil {
		return nil, err
	}
	g := &guest{conn, id, gs}
	gs.mu.Lock()
	defer gs.mu.Unlock()
	if gs.barsLocked(id, protocol) {
		return nil, barredError(id)
	}
	if gs.conns == nil {
		gs.conns = map[string]map[*guest]struct{}{}
	}
	if gs.conns[id] == nil {
		gs.conns[id] = map[*guest]struct{}{}
	}
	gs.conns[id][g] = struct{}{}
	return g, nil
}

func (gs *guests) check(id, protocol string) error {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	if gs.barsLocked(id, protocol) {
		return barredError(id)
	}
	return nil
}

func (gs *guests) barsLocked(id, protocol string) bool { return gs.barred[id] && protocol != Secret }

func barredError(id string) error { return fmt.Errorf("node %s: %w", id, ErrBarred) }

// Bar shuts out the members with the given ids, and only those: what they have open
// of the member protocols is closed, and nothing is accepted from them nor dialled, but
// for the protocol Secret.
func (p *Port) Bar(ids []string) {
	gs := &p.guests
	var leaving []*guest
	gs.mu.Lock()
	gs.barred = map[string]bool{}
	for _, id := range ids {
		gs.barred[id] = true
		for g := range gs.conns[id] {
			leaving = append(leaving, g)
		}
	}
	gs.mu.Unlock()
	for _, g := range leaving {
		g.Close()
	}
}
