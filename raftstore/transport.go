package raftstore

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

const (
	transportTimeout = 5 * time.Second
	// beatsBeforeVotes is how many heartbeats a follower misses before it seeks votes.
	beatsBeforeVotes = 3
)

// transport is Raft's network transport over our streams, which leaves out, holds back and adds
// what its parts say: pace, await, needless, push. It remembers of each peer what they need.
type transport struct {
	*raft.NetworkTransport
	election      *election
	log           raft.LogStore // this node's
	heartbeatPace time.Duration
	began         time.Time     // from which moments for heartbeats are counted
	requests      chan raft.RPC // see Consumer

	silent atomic.Uint64 // a term; as its leader this node does not speak any more

	mu    sync.Mutex
	peers map[raft.ServerID]*peerRecord
}

// peerRecord is what the transport knows of one peer; transport.mu guards it.
type peerRecord struct {
	told    uint64 // highest commit index sent
	away    bool   // the last request failed; Raft's own will tell when it is back
	pushing bool
	beat    time.Time     // of the last heartbeat, or of the one that waits
	term    uint64        // of the heartbeats
	back    chan struct{} // closed when the peer is not away any more; nil: nobody waits
	heard   time.Time     // when it last answered as a follower of this leader
	lastLog uint64        // the end of its log then

	beating    int       // heartbeats that are not answered yet
	knows      agreement // see needless
	distrusted time.Time // when that was last forgotten
}

func newTransport(g greeter, e *election, entries raft.LogStore, pace time.Duration, log *raftLogger) *transport {
	return &transport{
		election:      e,
		log:           entries,
		requests:      make(chan raft.RPC),
		heartbeatPace: pace,
		began:         time.Now(),
		peers:         make(map[raft.ServerID]*peerRecord),
		NetworkTransport: raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
			Stream: newRaftStreams(g), MaxPool: 3, Timeout: transportTimeout, Logger: log, MsgpackUseNewTimeFormat: true,
		}),
	}
}

// AppendEntries is Raft's own, with its heartbeats at a slower pace; it shows which
// peers are in reach.
func (t *transport) AppendEntries(id raft.ServerID, to raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	send := t.NetworkTransport.AppendEntries
	if isHeartbeat(req) {
		t.pace(id, req.Term)
		send = t.beat
	} else {
		t.await(id, req.Term)
	}
	if req.Term <= t.silent.Load() {
		return errSilent
	}
	err := send(id, to, req, resp)
	t.note(id, req, err)
	if err == nil {
		t.hear(id, req.Term, resp)
	}
	return err
}

// isHeartbeat tells what Raft sends beside the log.
func isHeartbeat(req *raft.AppendEntriesRequest) bool {
	return req.PrevLogEntry == 0 && req.PrevLogTerm == 0 && req.LeaderCommitIndex == 0 && len(req.Entries) == 0
}

// pace holds a heartbeat back until heartbeatPace after the one before. Raft
// sends one every 30 to 60 ms, whatever else tells followers that the leader lives,
// and in an idle cluster leaders and followers did little else. Those to all peers leave at
// the same moments, so that the process wakes once for them, and once for their answers.
func (t *transport) pace(id raft.ServerID, term uint64) {
	t.mu.Lock()
	p := t.peer(id)
	p.term = max(p.term, term)
	now := time.Now()
	wait := max(0, min(p.beat.Add(t.heartbeatPace).Sub(now), t.nextBeat(now)))
	p.beat = now.Add(wait)
	t.mu.Unlock()
	if wait == 0 {
		return
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.election.closing:
	}
}

// nextBeat is how long it is until the next moment for heartbeats.
func (t *transport) nextBeat(now time.Time) time.Duration {
	return t.heartbeatPace - now.Sub(t.began)%t.heartbeatPace
}

// InstallSnapshot is Raft's own, for a peer that is in reach.
func (t *transport) InstallSnapshot(id raft.ServerID, to raft.ServerAddress, req *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	t.await(id, req.Term)
	return t.NetworkTransport.InstallSnapshot(id, to, req, resp, data)
}

// awaitBeats is without how long a wait for heartbeats to be answered ends: one that is
// under way may take transportTimeout and dialTimeout.
const awaitBeats = 2 * (transportTimeout + dialTimeout)

// await holds what is for a peer back while the peer does not answer heartbeats. Raft
// would go on trying, with up to ten seconds between two tries (twelve steps, the first
// of 10 ms), and a peer would stay behind for that long after it is in reach again;
// heartbeats are tried all the time. There is no wait where Raft sends none: it does not
// lead in that term any more, or the peer was removed.
func (t *transport) await(id raft.ServerID, term uint64) {
	for {
		t.mu.Lock()
		p := t.peer(id)
		left := awaitBeats - time.Since(p.beat)
		if !p.away || p.term > term || left <= 0 {
			t.mu.Unlock()
			return
		}
		if p.back == nil {
			p.back = make(chan struct{})
		}
		back := p.back
		t.mu.Unlock()
		timer := time.NewTimer(left)
		select {
		case <-back:
		case <-timer.C:
		case <-t.election.closing:
			timer.Stop()
			return
		}
		timer.Stop()
	}
}

// AppendEntriesPipeline is Raft's own, see notedPipeline.
func (t *transport) AppendEntriesPipeline(id raft.ServerID, to raft.ServerAddress) (raft.AppendPipeline, error) {
	p, err := t.NetworkTransport.AppendEntriesPipeline(id, to)
	if err != nil {
		return nil, err
	}
	n := &notedPipeline{AppendPipeline: p, transport: t, id: id, answers: make(chan raft.AppendFuture), closed: make(chan struct{})}
	go n.pass() // ends with the pipeline
	return n, nil
}

// notedPipeline is Raft's pipeline to a peer. Requests are noted as they are sent, and
// the first answer that is no success closes it: Raft v1.8.0 stops to take answers then
// but may send once more before it looks, and waits for ever for an answer to be taken
// (replication.go, pipelineReplicate). The peer would get heartbeats and no more entries,
// and Raft could not be shut down.
type notedPipeline struct {
	raft.AppendPipeline
	transport *transport
	id        raft.ServerID
	answers   chan raft.AppendFuture
	once      sync.Once
	closed    chan struct{}
}

// Consumer implements raft.AppendPipeline.
func (p *notedPipeline) Consumer() <-chan raft.AppendFuture { return p.answers }

// Close implements raft.AppendPipeline.
func (p *notedPipeline) Close() error {
	p.once.Do(func() { close(p.closed) })
	return p.AppendPipeline.Close()
}

func (p *notedPipeline) pass() {
	for {
		var f raft.AppendFuture
		select {
		case f = <-p.AppendPipeline.Consumer():
		case <-p.closed:
			return
		}
		failed := f.Error() != nil || !f.Response().Success
		p.transport.hear(p.id, f.Request().Term, f.Response())
		if failed {
			p.AppendPipeline.Close() // of a stream that is lost already
		} else {
			p.transport.agree(p.id, f.Request(), f.Start())
		}
		select {
		case p.answers <- f:
		case <-p.closed:
			return
		}
		if failed {
			return
		}
	}
}

// AppendEntries implements raft.AppendPipeline. There is no future if nothing was sent; Raft takes
// answers from Consumer alone.
func (p *notedPipeline) AppendEntries(req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	if req.Term <= p.transport.silent.Load() {
		return nil, errSilent
	}
	if p.transport.needless(p.id, req) {
		return nil, nil
	}
	f, err := p.AppendPipeline.AppendEntries(req, resp)
	p.transport.note(p.id, req, err)
	return f, err
}

// errSilent is the answer to Raft's requests once the disk has stalled.
var errSilent = errors.New("this node gives its leadership up: its disk does not write")

// diskStalled is called while a write to the log takes too long. Raft's loop, which
// leads, waits for that write, and cannot be told to stop; but the heartbeats that
// keep others from electing a leader go through our transport. Without them, the
// others elect one; Raft finds out when the write returns, by the lease that has run
// out or by the later term. A node that is the only voter has nobody to give way to.
func (s *Store) diskStalled() {
	if s.transport.election.raft.Load() == nil {
		return // the first write of all, before Raft runs
	}
	term, leads := s.leadsIn()
	voters := 0
	for _, m := range s.Members() {
		if m.Voter {
			voters++
		}
	}
	if leads && voters > 1 {
		s.transport.silent.Store(term)
		s.log.Error("a write to disk does not return; giving leadership up", "after", s.cfg.Timers.DiskStall, "term", term)
	}
}

func (t *transport) note(id raft.ServerID, req *raft.AppendEntriesRequest, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.peer(id)
	p.away = err != nil
	if err != nil {
		p.distrust()
	} else {
		if p.back != nil {
			close(p.back)
			p.back = nil
		}
		p.told = max(p.told, req.LeaderCommitIndex)
	}
}

// hear notes a peer's answer to this node as the leader of a term; an empty one if there was none.
func (t *transport) hear(id raft.ServerID, term uint64, resp *raft.AppendEntriesResponse) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.peer(id)
	if !resp.Success {
		p.distrust()
	}
	if resp.Term != term {
		return
	}
	p.heard, p.lastLog = time.Now(), resp.LastLog
}

// heardFrom returns when a peer last answered this node as its leader, and the end of its
// log then.
func (t *transport) heardFrom(id raft.ServerID) (at time.Time, lastLog uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.peers[id]; p != nil {
		return p.heard, p.lastLog
	}
	return time.Time{}, 0
}

func (t *transport) peer(id raft.ServerID) *peerRecord { // under mu
	p := t.peers[id]
	if p == nil {
		p = new(peerRecord)
		t.peers[id] = p
	}
	return p
}
