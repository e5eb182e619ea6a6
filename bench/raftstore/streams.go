package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"

	"kontiki/bench/cert"
)

// loopback carries one protocol of one replica over TLS on loopback.
type loopback struct {
	net.Listener
	tls   *tls.Config
	peers map[string]string // address by node id
}

func listen(dir, self string, peers map[string]string) (*loopback, error) {
	cfg, err := cert.Read(dir)
	if err != nil {
		return nil, err
	}
	l, err := tls.Listen("tcp", peers[self], cfg)
	if err != nil {
		return nil, err
	}
	return &loopback{l, cfg, peers}, nil
}

// Dial opens a stream to a replica.
func (l *loopback) Dial(ctx context.Context, nodeID string) (net.Conn, error) {
	address, ok := l.peers[nodeID]
	if !ok {
		return nil, fmt.Errorf("no replica is called %s", nodeID)
	}
	return (&tls.Dialer{Config: l.tls}).DialContext(ctx, "tcp", address)
}
