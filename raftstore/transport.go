package raftstore

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

const transportTimeout = 5 * time.Second

// transport is Raft's network transport over our streams. It also remembers
// what each peer was told of the commit index, for commit push.
type transport struct {
	*raft.NetworkTransport
	election *election

	mu    sync.Mutex
	peers map[raft.ServerID]*pushPeer
}

func newTransport(g greeter, e *election, log *raftLogger) *transport {
	return &transport{
		election: e,
		peers:    make(map[raft.ServerID]*pushPeer),
		NetworkTransport: raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
			Stream: newRaftStreams(g), MaxPool: 3, Timeout: transportTimeout, Logger: log, MsgpackUseNewTimeFormat: true,
		}),
	}
}

// AppendEntries is Raft's own; it shows which peers are in reach.
func (t *transport) AppendEntries(id raft.ServerID, to raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	err := t.NetworkTransport.AppendEntries(id, to, req, resp)
	t.note(id, req, err)
	return err
}

// AppendEntriesPipeline is Raft's own; requests are noted as they are sent.
func (t *transport) AppendEntriesPipeline(id raft.ServerID, to raft.ServerAddress) (raft.AppendPipeline, error) {
	p, err := t.NetworkTransport.AppendEntriesPipeline(id, to)
	if err != nil {
		return nil, err
	}
	return &notedPipeline{p, t, id}, nil
}

type notedPipeline struct {
	raft.AppendPipeline
	transport *transport
	id        raft.ServerID
}

func (p *notedPipeline) AppendEntries(req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	f, err := p.AppendPipeline.AppendEntries(req, resp)
	p.transport.note(p.id, req, err)
	return f, err
}

func (t *transport) note(id raft.ServerID, req *raft.AppendEntriesRequest, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.peer(id)
	p.away = err != nil
	if err == nil {
		p.told = max(p.told, req.LeaderCommitIndex)
	}
}

func (t *transport) peer(id raft.ServerID) *pushPeer { // under mu
	p := t.peers[id]
	if p == nil {
		p = new(pushPeer)
		t.peers[id] = p
	}
	return p
}
