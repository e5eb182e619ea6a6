package raftstore

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// do carries a step out. What takes time goes on beside the steps that follow.
func (c *simCluster) do(s simStep) {
	targets := c.named(s.Node)
	c.notef("step %s", s)
	switch s.Do {
	case "cut":
		c.cutLinks(s)
	case "heal":
		c.net.shift(func() { clear(c.net.cut); c.net.reject = false })
	case "resume":
		c.resume()
	case "far":
		c.net.shift(func() { c.net.most = s.For })
		c.count("fault: slow network", 1)
	case "compact":
		c.compact(s.Count)
	case "flaky":
		if s.Count > 0 {
			c.count("fault: flaky streams", 1)
		}
		c.net.shift(func() { c.net.flaky = float64(s.Count) / 100 })
	}
	for _, n := range targets {
		c.doAt(n, s)
	}
}

func (c *simCluster) doAt(n *simNode, s simStep) {
	p := n.at()
	switch s.Do {
	case "start":
		c.running.Go(func() { c.start(n) })
	case "trap":
		c.trap(n, s)
	case "disk":
		n.disk.ail(s.How)
		c.count("fault: disk "+s.How, 1)
	case "clock":
		n.skew.Store(int64(s.For))
		c.count("fault: clock jump", 1)
	case "upgrade":
		c.install(n, simNewVersion)
		c.count("fault: upgrade", 1)
	case "downgrade":
		c.install(n, simOldVersion)
		c.count("fault: downgrade", 1)
	}
	if p == nil {
		return
	}
	switch s.Do {
	case "crash":
		if c.crash(n, s.How == "power") {
			c.count("fault: crash, "+s.How, 1)
		}
	case "stop":
		c.running.Go(func() { c.stop(n) })
		c.count("fault: orderly stop", 1)
	case "pause":
		p.pause()
		c.net.shift(func() { c.net.paused[n.id] = true })
		c.count("fault: pause", 1)
	case "transfer":
		c.beside("transfer", func(context.Context) error { return c.transfer(n) })
	case "snapshot":
		c.beside("snapshot", func(context.Context) error { return p.store.Snapshot() })
	case "add", "promote", "demote", "remove":
		c.beside(s.Do, func(ctx context.Context) error { return c.changeMember(ctx, n.id, s.Do) })
	}
}

// resume has all paused processes go on. What has arrived for them waits in no order:
// requests of clients may be read before what other nodes sent.
func (c *simCluster) resume() {
	for _, n := range c.nodes {
		if p := n.at(); p != nil {
			p.resume()
		}
	}
	c.net.shift(func() { clear(c.net.paused) })
}

// beside does what takes time and counts how it ended.
func (c *simCluster) beside(what string, do func(context.Context) error) {
	c.running.Go(func() {
		ctx, cancel := c.within(3 * time.Second)
		defer cancel()
		if err := do(ctx); err != nil {
			c.notef("%s: %v", what, err)
			c.count("fault: "+what+" (in vain)", 1)
			return
		}
		c.count("fault: "+what, 1)
	})
}

func (c *simCluster) cutLinks(s simStep) {
	from, to := c.named(s.From...), c.named(s.To...)
	cut := 0
	c.net.shift(func() {
		for _, a := range from {
			for _, b := range to {
				if a == b || slices.Contains(s.To, "others") && slices.Contains(from, b) || slices.Contains(s.From, "others") && slices.Contains(to, a) {
					continue
				}
				c.net.cut[[2]string{a.id, b.id}] = true
				cut++
			}
		}
		c.net.reject = s.How == "reject"
	})
	if cut > 0 {
		c.count("fault: cut, "+s.How, 1)
	}
}

// trap has a node crash at a write to come, and start some time after.
func (c *simCluster) trap(n *simNode, s simStep) {
	what, when, _ := strings.Cut(s.How, "-")
	c.arm(n, "fault: crash at a write, "+s.How, simTrap{what: what, after: s.Count, when: when, power: when != "told"}, s.For)
}

func (c *simCluster) arm(n *simNode, what string, t simTrap, pause time.Duration) {
	t.crash = func() {
		c.running.Go(func() { // what springs it may hold the node
			c.count(what, 1)
			c.crash(n, t.power)
			time.Sleep(pause)
			c.start(n)
		})
	}
	n.disk.arm(&t)
}

func (c *simCluster) transfer(n *simNode) error {
	l := c.leader()
	if l == nil || l == n {
		return fmt.Errorf("nobody else leads")
	}
	p := l.at()
	if p == nil {
		return fmt.Errorf("%s is gone", l.id)
	}
	return p.store.TransferTo(n.id)
}

func (c *simCluster) changeMember(ctx context.Context, id, do string) error {
	for _, n := range c.nodes { // through one that is no party
		p := n.at()
		if p == nil || n.id == id {
			continue
		}
		change := memberChange{ID: id, Knows: c.node(id).reads(), Action: map[string]memberAction{
			"add": memberAdd, "promote": memberPromote, "demote": memberDemote, "remove": memberRemove}[do]}
		if change.Action == memberRemove {
			return p.store.Remove(ctx, id)
		}
		return p.store.changeMember(ctx, change)
	}
	return fmt.Errorf("nobody runs")
}

// reads is the version of commands that a node says it can read when it is let in.
func (n *simNode) reads() int {
	if p := n.at(); p != nil {
		return int(p.knows)
	}
	return int(simOldVersion)
}

// compact drops history, as it may be old or full.
func (c *simCluster) compact(behind int) {
	for _, n := range c.nodes {
		p := n.at()
		if p == nil {
			continue
		}
		c.beside("compaction", func(ctx context.Context) error {
			revision := p.store.View().Revision()
			return p.store.Compact(ctx, revision-min(revision, uint64(behind)))
		})
		return
	}
}

// founding leaves the directory of a blank node as a crash in its first moments may
// have: the file that says whose it is is written in steps.
func (c *simCluster) founding(n *simNode, i int) {
	r := rand.New(rand.NewPCG(c.plan.Seed, uint64(1000+i)))
	var err error
	switch r.IntN(6) {
	case 0: // the new file was begun
		if err = c.claim(n); err == nil {
			path := filepath.Join(n.dir, identityFile)
			if err = os.Rename(path, path+".new"); err == nil {
				err = os.Truncate(path+".new", int64(r.IntN(20)))
			}
		}
	case 1: // it has its name, and there is no log
		err = c.claim(n)
	case 2: // the log was begun
		c.arm(n, "fault: crash at the first start", simTrap{what: "any", after: 1 + r.IntN(3), power: true,
			when: []string{"before", "torn", "after"}[r.IntN(3)]}, 10*time.Millisecond)
		return
	default:
		return
	}
	if err != nil {
		c.found("does not start", "%s: %v", n.id, err)
	}
	c.count("fault: crash while founding", 1)
}

func (c *simCluster) claim(n *simNode) error {
	_, err := claimDir(n.dir, identity{NodeID: n.id, ClusterID: "simulated"})
	return err
}

func (d *simDisk) arm(t *simTrap) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.trap = t
}

// ail makes the disk slow, full or silent.
func (d *simDisk) ail(how string) {
	d.heal()
	d.mu.Lock()
	defer d.mu.Unlock()
	switch how {
	case "slow":
		d.slow = 150 * time.Millisecond
	case "full":
		d.full = true
	case "hang":
		d.hang = make(chan struct{})
	}
}

func (d *simDisk) heal() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.slow, d.full = time.Millisecond, false
	if d.hang != nil {
		close(d.hang)
		d.hang = nil
	}
}
