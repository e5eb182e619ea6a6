package raftstore

import (
	"time"

	"github.com/hashicorp/raft"
)

const transportTimeout = 5 * time.Second

// transport is Raft's network transport over our streams.
type transport struct {
	*raft.NetworkTransport
}

func newTransport(g greeter, log *raftLogger) *transport {
	return &transport{raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: newRaftStreams(g), MaxPool: 3, Timeout: transportTimeout, Logger: log, MsgpackUseNewTimeFormat: true,
	})}
}
