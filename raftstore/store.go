package raftstore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"

	"kontiki/raftstore/internal/seeded"
)

// Store is one node's replica of the cluster's state and its part in the Raft
// group. See the package comment.
type Store struct {
	cfg  Config
	log  *slog.Logger
	fsm  *fsm
	disk *disk
	logs raft.LogStore // disk behind a cache of the last entries
	raft *raft.Raft

	transport *transport
	caller    *caller

	leadership     leadership
	transfers      chan struct{} // holds a token while leadership is handed over
	transferFailed uint64        // the last term in which that failed; the token's holder's

	proposer    proposer
	proposals   chan proposal
	flying      chan struct{} // holds a token per log entry that waits for its commit
	landed      chan struct{} // told when one has got it
	reads       readRounds
	incarnation string // of this process
	snapshots   raft.SnapshotStore

	unclear atomic.Pointer[string] // how replicas differ without a majority; of the leader's last comparison
	refills atomic.Uint64          // since the store was opened
	figures *figures

	admitting chan struct{} // holds a token while a member is let in or the gate is opened
	gateWaits atomic.Pointer[[]GateWait]
	roles     atomic.Pointer[map[string]string] // why members have theirs, while this node decides it

	closeOnce sync.Once
	closeErr  error
	closing   chan struct{} // closed when Close begins to stop the store
	raftDone  chan struct{} // closed when Raft has stopped
	life      context.Context
	endLife   context.CancelFunc

	spawning sync.Mutex // guards ended
	ended    bool
	children sync.WaitGroup
}

// spawn runs f in a goroutine that Close waits for; once the store has closed it does not.
func (s *Store) spawn(f func()) bool {
	s.spawning.Lock()
	defer s.spawning.Unlock()
	if !s.ended {
		s.children.Go(f)
	}
	return !s.ended
}

// Open starts the store of this node: it claims the directory, brings the replica
// to where it stood, without needing others, and joins the Raft group. Views can
// be read when it returns; writes and linearizable reads wait for a leader.
//
// A directory that is blank makes a founder a voter of the founders' group, and
// any other node wait until the leader adds it (AddNonvoter).
func Open(cfg Config) (*Store, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	is, err := claimDir(cfg.Dir, identity{NodeID: cfg.NodeID, ClusterID: cfg.ClusterID, Epoch: cfg.Epoch, Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	s := &Store{
		cfg: cfg, log: cfg.Logger,
		proposals: make(chan proposal), flying: make(chan struct{}, batchesFlying), landed: make(chan struct{}, 1), admitting: make(chan struct{}, 1), incarnation: rand.Text(),
		transfers: make(chan struct{}, 1),
		closing:   make(chan struct{}), raftDone: make(chan struct{}),
	}
	s.leadership.changed = make(chan struct{})
	s.figures = newFigures()
	s.life, s.endLife = context.WithCancel(context.Background())
	s.fsm = newFSM(s.log, cfg.EventBytes)
	s.fsm.knows = cfg.commandVersion
	s.fsm.persisted = func(began time.Time) { since(s.figures.snapshot, began) }
	held, err := cfg.openLog(cfg.Dir, is, s.log)
	if err != nil {
		return nil, err
	}
	if err := is.begin(cfg.Dir); err != nil { // not worth a start on a full disk; the next one does it
		s.log.Warn("this directory does not say yet that it has a log; a start without it would not be refused", "error", err)
	}
	s.disk = newDisk(held, cfg.Dir, is, s.log)
	if cfg.aroundWrite != nil {
		s.disk.around = cfg.aroundWrite
	}
	s.disk.wrote = func(began time.Time) { since(s.figures.disk, began) }
	s.disk.stallAfter, s.disk.stalled = cfg.Timers.DiskStall, s.diskStalled
	if err := s.start(); err != nil {
		s.endLife()
		return nil, errors.Join(err, s.disk.Close())
	}
	return s, nil
}

func (s *Store) start() error {
	raftLog := newRaftLogger(s.log)
	if err := s.disk.checkStable(); err != nil {
		return err
	}
	snapshots, err := s.cfg.openSnapshots(s.cfg.Dir, raftLog)
	if err != nil {
		return err
	}
	if seeded.Error == seeded.ForgottenVote {
		if err := s.disk.SetUint64([]byte("LastVoteTerm"), 0); err != nil {
			return err
		}
	}
	s.snapshots = snapshots
	if err := s.disk.replay(s.fsm, snapshots); err != nil {
		return err
	}
	if s.logs, err = raft.NewLogCache(logCacheSize, s.disk); err != nil {
		return err
	}
	g := greeter{streams: s.cfg.Raft, cluster: s.cfg.ClusterID, epoch: s.cfg.Epoch, nodeID: s.cfg.NodeID, refused: s.cfg.Refused, log: s.log}
	s.transport = newTransport(g, &election{
		self: raft.ServerID(s.cfg.NodeID), patience: s.cfg.Timers.Election, closing: s.closing,
		canLead: func() bool { return s.fsm.doubted() == nil && s.disk.canWrite() },
	}, s.logs, s.cfg.Timers.Heartbeat/beatsBeforeVotes, raftLog)
	if err := s.bootstrap(snapshots); err != nil {
		return errors.Join(err, s.transport.Close())
	}
	if s.raft, err = raft.NewRaft(s.raftConfig(raftLog), s.fsm, s.logs, s.disk, snapshots, s.transport); err != nil {
		return errors.Join(fmt.Errorf("raftstore: start raft: %w", err), s.transport.Close())
	}
	s.transport.election.raft.Store(s.raft)
	g.streams = s.cfg.Calls
	s.caller = &caller{greeter: g, peers: make(map[string]*callStream)}
	s.spawn(s.transport.runRequests)
	s.spawn(s.runLeadership)
	s.spawn(s.runVigil)
	s.spawn(s.runBatcher)
	s.spawn(s.runHalt)
	s.spawn(s.runRefill)
	s.spawn(s.runScrub)
	s.spawn(s.runComparisons)
	s.spawn(func() {
		g.serve(func(conn net.Conn, _ string) { serveCalls(s.life, conn, s.handleCall) })
	})
	s.startChores()
	return nil
}

const logCacheSize = 512 // entries that followers are fed from without reading the disk

func (s *Store) raftConfig(log *raftLogger) *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(s.cfg.NodeID)
	c.HeartbeatTimeout = s.cfg.Timers.Heartbeat
	c.ElectionTimeout = max(s.cfg.Timers.Election, c.HeartbeatTimeout+heartbeatNudge)
	c.LeaderLeaseTimeout, c.CommitTimeout = s.cfg.Timers.Lease, s.cfg.Timers.Commit
	c.SnapshotThreshold, c.TrailingLogs = s.cfg.SnapshotAfter, s.cfg.TrailingLogs
	c.SnapshotInterval = 30 * time.Second
	c.ShutdownOnRemove = false
	c.NoSnapshotRestoreOnStart = true // disk.replay has done it, and more
	c.BatchApplyCh = true             // entries that arrive together are written together
	c.NoLegacyTelemetry = true
	c.Logger = log
	return c
}

// bootstrap writes the founders' configuration into a blank log. All founders
// write the same, so it does not matter which of them are up.
func (s *Store) bootstrap(snapshots raft.SnapshotStore) error {
	if !slices.Contains(s.cfg.Founders, s.cfg.NodeID) && !slices.Contains(s.cfg.Nonvoters, s.cfg.NodeID) {
		return nil
	}
	held, err := raft.HasExistingState(s.logs, s.disk, snapshots)
	if err != nil {
		return err
	}
	var begun bool
	if held {
		if begun, err = s.bootstrapBegun(snapshots); err != nil || !begun {
			return err
		}
	}
	var c raft.Configuration
	for _, id := range s.cfg.Founders {
		c.Servers = append(c.Servers, raft.Server{ID: raft.ServerID(id), Address: raft.ServerAddress(id)})
	}
	for _, id := range s.cfg.Nonvoters {
		c.Servers = append(c.Servers, raft.Server{Suffrage: raft.Nonvoter, ID: raft.ServerID(id), Address: raft.ServerAddress(id)})
	}
	if begun {
		err = s.logs.StoreLog(&raft.Log{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(c)})
	} else {
		err = raft.BootstrapCluster(s.raftConfig(newRaftLogger(s.log)), s.logs, s.disk, snapshots, s.transport, c)
	}
	if err != nil {
		return fmt.Errorf("raftstore: write the founders' configuration: %w", err)
	}
	return nil
}

// bootstrapBegun tells whether a crash came between the two writes of Raft's
// BootstrapCluster: the term, and the configuration as the first entry. Raft takes what
// that leaves for a store with a state, so that a founder would wait for a leader for
// ever, and so would all of them after a loss of power.
func (s *Store) bootstrapBegun(snapshots raft.SnapshotStore) (bool, error) {
	term, err := s.disk.GetUint64([]byte("CurrentTerm"))
	if err != nil && !errors.Is(err, raftboltdb.ErrKeyNotFound) {
		return false, fmt.Errorf("raftstore: read the term: %w", err)
	}
	last, err := s.logs.LastIndex()
	if err != nil {
		return false, fmt.Errorf("raftstore: read the end of the log: %w", err)
	}
	list, err := snapshots.List()
	if err != nil {
		return false, fmt.Errorf("raftstore: list snapshots: %w", err)
	}
	return term == 1 && last == 0 && len(list) == 0, nil
}

// err says why the store does not work any more.
func (s *Store) err() error {
	select {
	case <-s.closing:
		return ErrClosed
	default:
	}
	if err := s.fsm.failed(); err != nil {
		return err
	}
	return s.fsm.doubted()
}

// Err says why this replica is not to be read now: ErrDiffers, ErrHalted or ErrClosed.
// A View that was taken before it returned nil may be used.
func (s *Store) Err() error { return s.err() }

// runHalt takes a halted replica out of the group.
func (s *Store) runHalt() {
	select {
	case <-s.fsm.halted:
		s.raft.Shutdown()
	case <-s.closing:
	}
}

// View returns what this node's replica holds now.
func (s *Store) View() View { return s.fsm.current.Load().view() }

// ViewAt returns the state at exactly a revision, ErrCompacted if it is gone on
// this node, or ErrFutureRevision.
func (s *Store) ViewAt(ctx context.Context, revision uint64) (View, error) {
	if err := s.err(); err != nil {
		return View{}, err
	}
	v, err := s.fsm.viewAt(revision)
	if err != nil {
		return View{}, fmt.Errorf("revision %d: %w", revision, err)
	}
	return v, nil
}

// WaitRevision returns a view that is not older than a revision. If this replica
// does not get there before ctx ends, the error wraps ErrFutureRevision.
func (s *Store) WaitRevision(ctx context.Context, revision uint64) (View, error) {
	if err := s.err(); err != nil {
		return View{}, err
	}
	ctx, cancel := s.untilClose(ctx)
	defer cancel()
	st, err := s.fsm.waitFor(ctx, func(st *state) bool { return st.revision >= revision })
	switch {
	case err == nil:
		return st.view(), nil
	case errors.Is(err, ErrClosed), errors.Is(err, ErrHalted), errors.Is(err, ErrDiffers):
		return View{}, err
	}
	return View{}, fmt.Errorf("revision %d, this node is at %d: %w: %w", revision, st.revision, ErrFutureRevision, err)
}

// Compacted is the revision to which this node's history reaches back: states at
// it and later, and events after it, can be had. It may differ between nodes.
func (s *Store) Compacted() uint64 { return s.fsm.floor() }

// EventAge is how long history is kept, unless writes push it out before; negative
// if it is not dropped by age.
func (s *Store) EventAge() time.Duration { return s.cfg.EventAge }

// untilClose is ctx that also ends, with cause ErrClosed, when the store closes.
func (s *Store) untilClose(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.life, func() { cancel(ErrClosed) })
	return ctx, func() { stop(); cancel(nil) }
}

// Snapshot has this replica write a snapshot and drop the log before it, as it
// does by itself from time to time. It returns when the snapshot is on disk.
func (s *Store) Snapshot() error {
	if err := s.err(); err != nil {
		return err
	}
	if err := s.raft.Snapshot().Error(); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return fmt.Errorf("raftstore: snapshot: %w", err)
	}
	return nil
}

// Close hands leadership over, stops the store and releases its directory. It
// returns when everything has ended.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		s.HandOver()
		close(s.closing)
		s.endLife()
		s.closeErr = s.stop()
	})
	return s.closeErr
}

func (s *Store) stop() error {
	s.awaitFlying(time.Second) // Raft forgets to answer what it has not applied when it stops
	// The transport goes first: see disk.Set.
	err := errors.Join(s.transport.Close(), s.cfg.Calls.Close())
	close(s.disk.closing)
	s.caller.close()
	err = errors.Join(err, s.raft.Shutdown().Error())
	close(s.raftDone)
	s.spawning.Lock()
	s.ended = true
	s.spawning.Unlock()
	s.children.Wait()
	return errors.Join(err, s.disk.markCommitted(), s.disk.Close())
}
