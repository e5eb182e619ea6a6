package workload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"kontiki/jepsen/check"
	"kontiki/jepsen/history"
)

// Workload is one thing that clients do.
type Workload struct {
	Name  string
	About string // what is proven, in a sentence
	// setUp makes what the workload needs, before any fault; nil if that is nothing.
	setUp func(ctx context.Context, r *Run) error
	// run has clients do it until the run's Ending is closed, and then reads, while all
	// is well, what every node holds. An error says that nothing can be judged.
	run func(ctx context.Context, r *Run) error
	// judge tells what the events of this workload show and must not.
	judge func(h judged) []check.Anomaly
	// unproven tells, in words, what of them could not be judged; nil if that is judge's alone.
	unproven func(h judged) []string
}

// All are the workloads, in the order in which they are told of.
func All() []Workload {
	return []Workload{register(), createUnique(), set(), reads(), watches(), slowWatches(), identity(), addresses(), reach()}
}

// Select finds workloads by name; "all" are all of them.
func Select(names []string) ([]Workload, error) {
	var selected []Workload
	for _, name := range names {
		before := len(selected)
		for _, w := range All() {
			if name == w.Name || name == "all" {
				selected = append(selected, w)
			}
		}
		if len(selected) == before {
			return nil, fmt.Errorf("there is no workload %q; there are %s, and all", name, strings.Join(Names(), ", "))
		}
	}
	seen := make(map[string]bool)
	for _, w := range selected {
		if seen[w.Name] {
			return nil, fmt.Errorf("workload %s is named twice", w.Name)
		}
		seen[w.Name] = true
	}
	return selected, nil
}

// Names are the names of all workloads.
func Names() (names []string) {
	for _, w := range All() {
		names = append(names, w.Name)
	}
	return names
}

// Node is a node under proof, as clients see it. Address is where it is now.
type Node struct {
	Name    string
	Config  *rest.Config
	Address func() string
}

// Run is what the workloads of one run share.
type Run struct {
	Recorder *history.Recorder
	Nodes    []Node
	Clients  int     // of a workload, on each node
	Rate     float64 // requests a second of a workload, of all its clients together
	Seed     uint64
	// Shared is a folder of the machine that all its virtual hosts have, for what containers
	// tell. Every node has the image WitnessImage.
	Shared string
	// Ending is closed when clients shall come to their end: faults are over and the
	// cluster is whole.
	Ending <-chan struct{}

	processes atomic.Int64
	latest    atomic.Uint64 // the greatest revision that any client was told
}

// SetUp makes what the workload needs. The cluster is whole and stays so meanwhile.
func (w Workload) SetUp(ctx context.Context, r *Run) error {
	if w.setUp == nil {
		return nil
	}
	if err := w.setUp(ctx, r); err != nil {
		return fmt.Errorf("set up workload %s: %w", w.Name, err)
	}
	return nil
}

// Run does the workload, see Run.Ending. It returns when all clients have ended.
func (w Workload) Run(ctx context.Context, r *Run) error {
	if err := w.run(ctx, r); err != nil {
		return fmt.Errorf("workload %s: %w", w.Name, err)
	}
	return nil
}

// Judge tells what a history shows and must not. It is pure.
func (w Workload) Judge(events []history.Event) []check.Anomaly {
	h := w.of(events)
	return append(w.judge(h), h.answeredInTheEnd()...)
}

// Unproven tells why a history in which nothing is found proves less than it seems to.
func (w Workload) Unproven(events []history.Event) (why []string) {
	h := w.of(events)
	if w.unproven != nil {
		why = w.unproven(h)
	}
	for _, op := range h.ops {
		if !isRead(op.Call) && op.Return.Type == history.OK && op.Return.Refused == "" {
			return why
		}
	}
	if slices.ContainsFunc(h.events, func(e history.Event) bool { return e.F == asked && e.Error == "" }) {
		return why // it is not about writes
	}
	return append(why, "no write was acknowledged")
}

// of is the workload's part of a history.
func (w Workload) of(events []history.Event) judged {
	h := judged{lives: history.LivesOf(events), touches: touchesOf(events)}
	for _, e := range events {
		if e.Workload == w.Name {
			h.events = append(h.events, e)
		}
	}
	h.ops = history.Ops(h.events)
	return h
}

// judged is a history as judges look at it: one workload's part.
type judged struct {
	events  []history.Event
	ops     []history.Op
	lives   history.Lives
	touches []touch
}

// final is the F of the reads by which nodes are asked in the end.
const final = "final"

// answeredInTheEnd tells which nodes were asked in the end and never answered.
func (h judged) answeredInTheEnd() []check.Anomaly {
	asked := make(map[string]history.Op)
	for _, op := range h.ops {
		if op.Call.F == final && asked[op.Call.Node].Return.Type != history.OK {
			asked[op.Call.Node] = op
		}
	}
	var found []check.Anomaly
	for _, node := range sortedKeys(asked) {
		if op := asked[node]; op.Return.Type != history.OK {
			found = append(found, check.Anomaly{Kind: "no answer in the end", At: []int64{op.Call.Index},
				Text: fmt.Sprintf("%s did not answer when all faults were over: %s", node, op)})
		}
	}
	return found
}

// finals are what nodes showed in the end.
func (h judged) finals() (ops []history.Op) {
	for _, op := range h.ops {
		if op.Call.F == final && op.Return.Type == history.OK {
			ops = append(ops, op)
		}
	}
	return ops
}

// namespace is where a workload's objects are.
func (w Workload) namespace() string { return "jepsen-" + w.Name }

// prepare makes the namespace.
func (w Workload) prepare(ctx context.Context, r *Run) error {
	c, err := r.client(w, r.Nodes[0])
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, setupTime)
	defer cancel()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.namespace()}}
	return untilDone(ctx, "the namespace "+w.namespace(), func() error {
		err := c.rest.Post().Resource("namespaces").Body(ns).Do(ctx).Error()
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	})
}

// setupTime bounds what is done before the first fault.
const setupTime = time.Minute

// untilDone repeats act until it succeeds or ctx ends.
func untilDone(ctx context.Context, what string, act func() error) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := act()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("waited in vain for %s: %w", what, errors.Join(err, context.Cause(ctx)))
		}
	}
}

// told takes a revision that a client was told into account.
func (r *Run) told(revision uint64) {
	for {
		is := r.latest.Load()
		if revision <= is || r.latest.CompareAndSwap(is, revision) {
			return
		}
	}
}

// everywhere runs the clients of a workload on all nodes, at its rate, until the end.
// Each makes its turns of its own, with its own source of chance.
func (w Workload) everywhere(ctx context.Context, r *Run, each func(p *process) (turn func(ctx context.Context))) error {
	return w.everywhereAt(ctx, r, r.Rate, each)
}

// everywhereAt is everywhere with so many turns a second, at most as many as are asked for.
func (w Workload) everywhereAt(ctx context.Context, r *Run, rate float64, each func(p *process) (turn func(ctx context.Context))) error {
	rate = min(rate, r.Rate)
	if err := w.prepare(ctx, r); err != nil {
		return err
	}
	var processes []*process
	for rank := range r.Clients {
		for _, node := range r.Nodes {
			p, err := r.process(w, node)
			if err != nil {
				return err
			}
			p.reads = rank > 0
			processes = append(processes, p)
		}
	}
	pace := time.Duration(float64(len(processes)) / rate * float64(time.Second))
	var clients sync.WaitGroup
	for i, p := range processes {
		turn := each(p)
		clients.Go(func() {
			// Not all at once.
			next := time.NewTimer(pace * time.Duration(i) / time.Duration(len(processes)))
			defer next.Stop()
			for {
				select {
				case <-next.C:
				case <-r.Ending:
					return
				case <-ctx.Done():
					return
				}
				next.Reset(pace/2 + rand.N(pace))
				turn(ctx)
			}
		})
	}
	clients.Wait()
	return ctx.Err()
}

// finalTime bounds what is read in the end.
const finalTime = 45 * time.Second

// EndTime bounds what clients do once a run's Ending is closed: the turns that are under
// way, then the word to watches that all is over, and the reads through every node.
const EndTime = 30*time.Second + 2*finalTime

// readAll reads, as the last thing, all objects of the workload through every node.
func (w Workload) readAll(ctx context.Context, r *Run) error {
	return w.throughEach(ctx, r, func(ctx context.Context, p *process) error {
		if e := p.list(ctx, final, ""); e.Type != history.OK {
			return errors.New(e.Error)
		}
		return nil
	})
}

// throughEach repeats a read through every node until it is answered, or finalTime is over:
// that is in the history, and judged. All nodes are asked at once: if none answers, it
// takes no longer than if one does not.
func (w Workload) throughEach(ctx context.Context, r *Run, read func(ctx context.Context, p *process) error) error {
	processes := make([]*process, len(r.Nodes))
	for i, node := range r.Nodes {
		var err error
		if processes[i], err = r.process(w, node); err != nil {
			return err
		}
	}
	until, cancel := context.WithTimeout(ctx, finalTime)
	defer cancel()
	var reads sync.WaitGroup
	for _, p := range processes {
		reads.Go(func() {
			_ = untilDone(until, p.node, func() error { return read(until, p) })
		})
	}
	reads.Wait()
	return ctx.Err()
}
