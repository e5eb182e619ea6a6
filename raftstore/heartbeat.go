package raftstore

import "github.com/hashicorp/raft"

// SetHeartbeatHandler has Raft answer heartbeats beside its main loop, so that a write to
// the log which takes long is not taken for the death of a follower; but only those that
// find it in step. Any other raises the term or ends a candidacy, which Raft v1.8.0 does
// there, too: a term that waits for the disk meanwhile is written over a later one
// of the main loop. The main loop learns of the leader by the log (an entry begins each
// term, and the commit index follows all the time). Until then the leader is told where this node stands.
func (t *transport) SetHeartbeatHandler(handle func(raft.RPC)) {
	t.NetworkTransport.SetHeartbeatHandler(func(rpc raft.RPC) {
		req, ok := rpc.Command.(*raft.AppendEntriesRequest)
		if term, inStep := t.election.inStep(); ok && (req.Term > term || req.Term == term && !inStep) {
			rpc.Respond(&raft.AppendEntriesResponse{RPCHeader: raft.RPCHeader{ProtocolVersion: req.ProtocolVersion}, Term: term}, nil)
			return
		}
		handle(rpc)
	})
}

// inStep tells the term and whether this node follows in it, or would.
func (e *election) inStep() (term uint64, follows bool) {
	r := e.raft.Load()
	if r == nil {
		return 0, false
	}
	return r.CurrentTerm(), r.State() == raft.Follower
}
