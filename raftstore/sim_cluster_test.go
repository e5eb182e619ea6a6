package raftstore

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"kontiki/jepsen/check"
)

// simCluster runs a plan: nodes on a simulated network and disks, in a synctest bubble.
type simCluster struct {
	plan  *simPlan
	net   *simNet
	nodes []*simNode
	*simHistory
	log  *slog.Logger
	life context.Context // of clients and watches; ends when the faults are over and all is read
	end  context.CancelFunc
	// running are the steps that take time, and processes that end.
	running sync.WaitGroup
	clients sync.WaitGroup
	watches sync.WaitGroup
}

// simNode is a machine. Its disk, its name and its clock outlive its processes.
type simNode struct {
	id   string
	dir  string // of its identity, the one real file
	disk *simDisk
	skew atomic.Int64 // of its wall clock, in nanoseconds

	mu               sync.Mutex
	process          *simProcess // nil while none runs
	starting         bool
	started, crashes int
	stopped          chan struct{} // closed when the process that stops in good order has ended
	knows            uint8         // the latest version of commands that the installed program reads
}

// simProcess is one process of a node. What it does after its end did not happen.
type simProcess struct {
	name  string
	store *Store
	knows uint8 // see simNode
	dead  chan struct{}

	mu     sync.Mutex
	paused chan struct{} // not nil while it is: then closed when it goes on
}

// pause keeps requests of clients from being read, as the network does those of nodes.
func (p *simProcess) pause() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.paused == nil {
		p.paused = make(chan struct{})
	}
}

func (p *simProcess) resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.paused != nil {
		close(p.paused)
		p.paused = nil
	}
}

// receive waits while the process is paused, and tells whether a request was read.
func (p *simProcess) receive(ctx context.Context) bool {
	p.mu.Lock()
	paused := p.paused
	p.mu.Unlock()
	if paused == nil {
		return true
	}
	select {
	case <-paused:
		return true
	case <-ctx.Done():
	case <-p.dead:
	}
	return false
}

func (p *simProcess) alive() bool {
	select {
	case <-p.dead:
		return false
	default:
		return true
	}
}

func newSimCluster(plan *simPlan, dir string) *simCluster {
	r := rand.New(rand.NewPCG(plan.Seed, 1))
	c := &simCluster{plan: plan, net: newSimNet(rand.New(rand.NewPCG(plan.Seed, 2))), simHistory: newSimHistory()}
	c.log = slog.New(slog.NewTextHandler(&c.notes, &slog.HandlerOptions{Level: slog.LevelInfo}))
	c.life, c.end = context.WithCancel(context.Background())
	for _, id := range plan.nodes() {
		c.nodes = append(c.nodes, &simNode{id: id, knows: simOldVersion, dir: filepath.Join(dir, id), disk: newSimDisk(rand.New(rand.NewPCG(r.Uint64(), 3)))})
	}
	return c
}

// The programs of a schedule are two, one a version of commands ahead of the other.
var (
	simOldVersion = CommandVersion
	simNewVersion = CommandVersion + 1
)

func (c *simCluster) config(n *simNode, knows uint8) Config {
	log := n.disk.open()
	cfg := Config{
		NodeID: n.id, ClusterID: "simulated", Dir: n.dir, Logger: c.log.With("node", n.id),
		Raft: c.net.streams(n.id, "raft"), Calls: c.net.streams(n.id, "call"),
		TrailingLogs: uint64(c.plan.Trailing), EventBytes: c.plan.EventBytes, EventAge: c.plan.EventAge,
		Timers: Timers{DiskStall: 500 * time.Millisecond}, commandVersion: knows,
		openLog:       func(string, identity, *slog.Logger) (logStore, error) { return log, nil },
		openSnapshots: func(string, *raftLogger) (raft.SnapshotStore, error) { return simSnapshots{log}, nil },
		Now:           func() time.Time { return time.Now().Add(time.Duration(n.skew.Load())) },
	}
	for i, id := range c.plan.nodes() {
		switch {
		case i < c.plan.Voters:
			cfg.Founders = append(cfg.Founders, id)
		case i < c.plan.Voters+c.plan.Nonvoters:
			cfg.Nonvoters = append(cfg.Nonvoters, id)
		}
	}
	if n.id == c.plan.Stopped {
		cfg.Timers.Heartbeat, cfg.Timers.Election, cfg.Timers.Lease = simStopped, simStopped, simStopped
	}
	return cfg
}

// simStopped is what a clock that hardly runs makes of the timers.
const simStopped = 6 * time.Second

// start starts a process, unless one runs. It may take time, and be cut off by a crash.
func (c *simCluster) start(n *simNode) {
	n.mu.Lock()
	stopped := n.stopped
	n.mu.Unlock()
	if stopped != nil {
		<-stopped
	}
	n.mu.Lock()
	if n.process != nil || n.starting {
		n.mu.Unlock()
		return
	}
	n.starting = true
	crashes, knows := n.crashes, n.knows
	n.mu.Unlock()
	c.net.boot(n.id)
	store, err := Open(c.config(n, knows))

	n.mu.Lock()
	defer n.mu.Unlock()
	n.starting = false
	switch {
	case n.crashes != crashes:
		if err == nil {
			c.running.Go(store.abandon)
		}
		return
	case err != nil:
		c.net.crash(n.id, false)
		if !strings.Contains(err.Error(), errPowerOff.Error()) { // Raft does not wrap it
			c.found("does not start", "%s: %v", n.id, err)
		}
		return
	}
	n.started++
	n.process = &simProcess{name: fmt.Sprintf("%s/%d", n.id, n.started), store: store, knows: knows, dead: make(chan struct{})}
	c.count("starts", 1)
	c.notef("%s starts at revision %d", n.process.name, store.View().Revision())
	c.follow(n.process)
}

// crash ends a process between two of its steps: what is not on its disk, or on its
// way in the network, is gone.
func (c *simCluster) crash(n *simNode, power bool) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.process
	if p == nil && !n.starting {
		return false
	}
	n.crashes++
	n.process = nil
	n.disk.crash(power)
	c.net.crash(n.id, power)
	c.notef("%s crashes, power lost: %v", n.id, power)
	if p != nil {
		c.mayNotHalt(p)
		close(p.dead)
		c.running.Go(p.store.abandon)
	}
	return true
}

// abandon ends the goroutines of a store whose process is gone.
func (s *Store) abandon() {
	s.closeOnce.Do(func() {
		close(s.closing)
		s.endLife()
		s.closeErr = s.stop()
	})
}

// stop stops a process in good order.
func (c *simCluster) stop(n *simNode) {
	n.mu.Lock()
	p := n.process
	if p == nil {
		n.mu.Unlock()
		return
	}
	n.process, n.stopped = nil, make(chan struct{})
	stopped := n.stopped
	n.mu.Unlock()
	c.notef("%s stops", p.name)
	c.mayNotHalt(p)
	if err := p.store.Close(); err != nil {
		c.notef("%s stopped: %v", p.name, err)
	}
	close(p.dead)
	close(stopped)
}

// mayNotHalt notes that a process met what its program cannot read.
func (c *simCluster) mayNotHalt(p *simProcess) {
	if err := p.store.fsm.failed(); err != nil {
		c.found("halted", "%s, which reads commands up to version %d: %v", p.name, p.knows, err)
	}
}

// at returns the process of a node, nil if none runs.
func (n *simNode) at() *simProcess {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.process
}

func (c *simCluster) node(id string) *simNode {
	i := slices.IndexFunc(c.nodes, func(n *simNode) bool { return n.id == id })
	if i < 0 {
		return nil
	}
	return c.nodes[i]
}

// leader is the node that believes to lead, in the highest term if there are several.
func (c *simCluster) leader() *simNode {
	var leader *simNode
	var term uint64
	for _, n := range c.nodes {
		if p := n.at(); p != nil {
			if l := p.store.Leadership(); l.Self && l.Term > term {
				leader, term = n, l.Term
			}
		}
	}
	return leader
}

// named finds nodes by what a step calls them.
func (c *simCluster) named(names ...string) (found []*simNode) {
	leader := c.leader()
	for _, name := range names {
		for _, n := range c.nodes {
			if name == "all" || name == "others" || name == n.id || name == "leader" && n == leader {
				found = append(found, n)
			}
		}
	}
	return found
}

// run plays the plan and returns when every process has ended.
func (c *simCluster) run() {
	began := time.Now()
	for i, n := range c.nodes {
		if err := os.MkdirAll(filepath.Dir(n.dir), 0o700); err != nil {
			c.found("does not start", "%s: %v", n.id, err)
		}
		c.founding(n, i)
		c.start(n)
	}
	c.startClients()
	for _, step := range c.plan.Steps {
		time.Sleep(step.At - time.Since(began))
		c.do(step)
	}
	time.Sleep(c.plan.Length - time.Since(began))
	c.recover()
	c.settle()
	for _, n := range c.nodes {
		if p := n.at(); p != nil {
			c.running.Go(func() { c.stop(n) })
		}
	}
	c.running.Wait()
	time.Sleep(time.Minute) // what is left of Raft's goroutines looks whether it should end
}

// recover ends all faults.
func (c *simCluster) recover() {
	c.notef("all faults end")
	c.resume()
	c.net.shift(func() {
		clear(c.net.cut)
		c.net.flaky, c.net.reject, c.net.most = 0, false, simNear
	})
	for _, n := range c.nodes {
		n.disk.heal()
		n.disk.arm(nil)
	}
	for _, n := range c.nodes {
		for tries := 0; n.at() == nil && tries < 100; tries++ { // a trap may have sprung before
			c.start(n)
			time.Sleep(20 * time.Millisecond)
		}
		if p := n.at(); p != nil && p.knows != n.installed() { // it was about to start when another was installed
			c.stop(n)
			c.start(n)
		}
	}
}

func (n *simNode) installed() uint8 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.knows
}

// install puts another program in the place of a node's, and starts the node with it.
func (c *simCluster) install(n *simNode, knows uint8) {
	n.mu.Lock()
	n.knows = knows
	n.mu.Unlock()
	if n.at() != nil { // else whoever starts it starts the new one
		c.running.Go(func() { c.stop(n); c.start(n) })
	}
}

// gateOpens waits until all members write the commands of the newer program, once all run it.
func (c *simCluster) gateOpens(ctx context.Context, members []*simProcess) {
	for _, p := range members {
		for p.store.Gate().Version != int(simNewVersion) {
			if ctx.Err() != nil {
				c.found("does not recover", "%s writes commands of version %d %v after all faults have ended, and waits for %v", p.name, p.store.Gate().Version, simPatience, p.store.Gate().Waits)
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	c.count("gates opened", 1)
}

// patience is how long a cluster without faults may take for anything.
const simPatience = 30 * time.Second

// settle waits until all that runs is the same everywhere, and takes what it is.
func (c *simCluster) settle() {
	time.Sleep(time.Second) // clients go on for a while
	c.clientsEnd()
	ctx, cancel := context.WithTimeout(context.Background(), simPatience)
	defer cancel()
	members := c.lastWrites(ctx)
	if c.plan.upgrades() {
		c.gateOpens(ctx, members)
	}
	time.Sleep(simTTLMost + 2*simClockMost*time.Millisecond + simTTLGrace)
	var revision, index uint64
	for _, p := range members {
		st := p.store.fsm.current.Load()
		revision, index = max(revision, st.revision), max(index, st.index)
	}
	for _, p := range members {
		if _, err := p.store.fsm.waitFor(ctx, func(st *state) bool { return st.index >= index }); err != nil {
			c.found("does not recover", "%s does not catch up with index %d: %v", p.name, index, err)
		}
	}
	c.compare(members)
	c.finished = time.Now()
	c.end()
	c.watches.Wait()
}

// lastWrites has every member write, and returns the members.
func (c *simCluster) lastWrites(ctx context.Context) (members []*simProcess) {
	var in []Member
	for ctx.Err() == nil && in == nil {
		if l := c.leader(); l != nil {
			if p := l.at(); p != nil {
				if _, err := p.store.Barrier(ctx); err == nil {
					in = p.store.Members()
				}
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	if in == nil {
		c.found("does not recover", "no leader %v after all faults have ended", simPatience)
	}
	k := c.newClient()
	for _, m := range in {
		p := c.node(m.ID).at()
		if p == nil {
			continue // it does not start, which was noted
		}
		members = append(members, p)
		key := "last/" + m.ID
		if _, outcome := k.apply(p, "last write", nil, []check.Update{{Key: key, Value: k.value()}}, 0, simPatience); outcome != check.OK {
			c.found("does not recover", "%s cannot write %v after all faults have ended", p.name, simPatience)
		}
	}
	return members
}

// inSimCluster runs f with a simulated cluster that has a leader, in a bubble of its own.
func inSimCluster(t *testing.T, voters int, f func(*testing.T, *simCluster)) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		c := newSimCluster(&simPlan{Voters: voters, EventBytes: 1 << 20, EventAge: time.Minute}, dir)
		for _, n := range c.nodes {
			c.start(n)
		}
		time.Sleep(2 * time.Second) // until one leads
		f(t, c)
		c.end()
		for _, n := range c.nodes {
			c.stop(n)
		}
		time.Sleep(time.Minute) // until all that they began has ended
	})
}

// pass lets time pass, of the bubble.
func (c *simCluster) pass(d time.Duration) { time.Sleep(d) }
