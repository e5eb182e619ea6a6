package raftstore

import "github.com/hashicorp/raft"

// Requests of other members pass here before Raft takes them: some would lead it astray.

// Consumer is where Raft takes requests from: those of others that answer has left to it.
func (t *transport) Consumer() <-chan raft.RPC { return t.requests }

// runRequests hands requests on until the store closes.
func (t *transport) runRequests() {
	for {
		select {
		case rpc := <-t.NetworkTransport.Consumer():
			if t.answer(rpc) {
				continue
			}
			select {
			case t.requests <- rpc:
			case <-t.election.closing:
				return
			}
		case <-t.election.closing:
			return
		}
	}
}

// answer makes a request fit for Raft, or answers it and reports that.
func (t *transport) answer(rpc raft.RPC) bool {
	switch req := rpc.Command.(type) {
	case *raft.AppendEntriesRequest:
		t.skipHeld(req)
	case *raft.InstallSnapshotRequest:
		return t.declineHeld(rpc, req)
	case *raft.TimeoutNowRequest:
		if !t.election.votes() {
			rpc.Respond(&raft.TimeoutNowResponse{}, errNoVoter)
			return true
		}
	default:
		t.election.hearCandidate(req)
	}
	return false
}
