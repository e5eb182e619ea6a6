package workload

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	"kontiki/jepsen/check"
	"kontiki/jepsen/history"
)

const (
	watchKeys = 20
	// sentinel is created when all faults are over. A watch that is told of it was told
	// all that happened before.
	sentinel = "the-end"
	// F of what a watch is told, of the list before it, and of the word that all was told.
	told, listed, toldAll = "told", "list", "told-all"
)

// watches follows objects on every node while they change. A watch that ends is begun
// again where it ended, as informers do; one that cannot is begun anew with a list.
func watches() Workload {
	w := Workload{
		Name:  "watch",
		About: "every watch on every node is told every change once, in the one order; bookmarks keep their word, and a list and the watch after it add up",
		judge: judgeWatches, unproven: unwatched,
	}
	w.run = func(ctx context.Context, r *Run) error { return w.runWatches(ctx, r, r.Rate, (*process).follow) }
	return w
}

// slowWatches is watches with large objects, and with clients that read nothing for some
// time while a watch is open: what they have not read yet is soon no longer kept.
func slowWatches() Workload {
	w := Workload{
		Name:  "slow-watch",
		About: "a watch that does not keep up is told every change in the end, or that it cannot be",
		judge: judgeWatches,
	}
	w.run = func(ctx context.Context, r *Run) error {
		return w.runWatches(ctx, r, slowWatchRate, (*process).follow, (*process).followSlowly)
	}
	return w
}

const (
	slowWatchRate = 30
	slowWatchSize = 64 << 10 // of a value; a node keeps 16 MiB of changes
)

// runWatches has each kind of watch on every node, and clients that change objects.
func (w Workload) runWatches(ctx context.Context, r *Run, rate float64, follow ...func(*process, context.Context)) error {
	if err := w.prepare(ctx, r); err != nil {
		return err
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	var watchers sync.WaitGroup
	defer watchers.Wait()
	for _, node := range r.Nodes {
		for _, follow := range follow {
			p, err := r.process(w, node)
			if err != nil {
				return err
			}
			watchers.Go(func() { follow(p, watching) })
		}
	}
	err := w.everywhereAt(ctx, r, rate, func(p *process) func(context.Context) {
		if len(follow) > 1 {
			p.pad = strings.Repeat("x", slowWatchSize)
		}
		return func(ctx context.Context) { p.changeSomething(ctx) }
	})
	if err != nil {
		return err
	}
	return errors.Join(w.end(ctx, r, &watchers, stop), w.readAll(ctx, r))
}

// end makes the sentinel and gives watches time to be told of it.
func (w Workload) end(ctx context.Context, r *Run, watchers *sync.WaitGroup, stop func()) error {
	until, cancel := context.WithTimeout(ctx, finalTime)
	defer cancel()
	p, err := r.process(w, r.Nodes[0])
	if err != nil {
		return err
	}
	err = untilDone(until, "the last object to be created", func() error {
		e := p.create(until, sentinel, p.value())
		if e.Type != history.OK {
			return errors.New(e.Error)
		}
		return nil
	})
	if err != nil {
		return nil // no node will have been told of it, which is judged
	}
	all := make(chan struct{})
	go func() { watchers.Wait(); close(all) }()
	select {
	case <-all:
	case <-until.Done():
	}
	stop()
	<-all
	return ctx.Err()
}

// changeSomething creates, changes or deletes an object.
func (p *process) changeSomething(ctx context.Context) {
	key := "w-" + strconv.Itoa(p.chance.IntN(watchKeys))
	if p.chance.IntN(6) == 0 {
		p.remove(ctx, key, history.Item{})
		return
	}
	if e := p.patch(ctx, key, p.value(), history.Item{}); e.Refused == history.Absent {
		p.create(ctx, key, p.value())
	}
}

// followSlowly is follow by a client that now and then reads nothing for long.
func (p *process) followSlowly(ctx context.Context) {
	p.slow = true
	p.follow(ctx)
}

// follow lists and watches until it is told of the sentinel or ctx ends. Between tries it
// waits as little as keeps the machine free.
func (p *process) follow(ctx context.Context) {
	var from uint64 // 0: begin with a list
	between := time.NewTicker(200 * time.Millisecond)
	defer between.Stop()
	for ctx.Err() == nil {
		var err error
		over := false
		if from == 0 {
			from, err = p.begin(ctx)
		} else {
			from, over, err = p.watch(ctx, from)
		}
		switch {
		case over:
			p.run.Recorder.Record(history.Event{Type: history.Info, Process: p.number, Node: p.node, Workload: p.workload, F: toldAll, Revision: from})
			return
		case apierrors.IsResourceExpired(err), apierrors.IsGone(err):
			from = 0 // as it was told: begin with a list
		}
		select {
		case <-between.C:
		case <-ctx.Done():
		}
	}
}

// begin lists, from the node's own replica as often as from the latest state.
func (p *process) begin(ctx context.Context) (from uint64, err error) {
	level := ""
	if p.chance.IntN(2) == 0 {
		level = "0"
	}
	e := p.list(ctx, listed, level)
	if e.Type != history.OK {
		return 0, errors.New(e.Error)
	}
	return e.Revision, nil
}

// watch follows after a revision, for some seconds. It returns how far it came, and
// whether it was told of the sentinel.
func (p *process) watch(ctx context.Context, from uint64) (through uint64, over bool, err error) {
	through = from
	seconds := 4 + p.chance.Int64N(10)
	if p.slow {
		seconds += 30
	}
	p.do(ctx, history.Event{F: "watch", At: from}, time.Duration(seconds+5)*time.Second, func(ctx context.Context, _ *history.Event) error {
		through, over, err = p.stream(ctx, from, seconds)
		return err
	})
	return through, over, err
}

func (p *process) stream(ctx context.Context, from uint64, seconds int64) (through uint64, over bool, err error) {
	through = from
	events, err := p.configMaps(p.rest.Get()).
		VersionedParams(&metav1.ListOptions{
			Watch: true, AllowWatchBookmarks: true, ResourceVersion: strconv.FormatUint(from, 10), TimeoutSeconds: &seconds,
		}, metav1.ParameterCodec).Watch(ctx)
	if err != nil {
		return through, false, err
	}
	defer events.Stop()
	if p.slow {
		p.idle(ctx)
	}
	for {
		var e watch.Event
		var open bool
		select {
		case e, open = <-events.ResultChan():
		case <-ctx.Done():
			return through, false, ctx.Err()
		}
		if !open {
			return through, false, nil
		}
		if e.Type == watch.Error {
			return through, false, apierrors.FromObject(e.Object)
		}
		revision, key, err := p.tell(e)
		if err != nil {
			return through, false, err
		}
		through = revision
		if key == sentinel {
			return through, true, nil
		}
	}
}

// idle does nothing for some time. At the end of a run it is woken.
func (p *process) idle(ctx context.Context) {
	enough := time.NewTimer(10*time.Second + time.Duration(p.chance.Int64N(int64(15*time.Second))))
	defer enough.Stop()
	select {
	case <-enough.C:
	case <-p.run.Ending:
	case <-ctx.Done():
	}
}

// tell writes down what a watch was told.
func (p *process) tell(e watch.Event) (revision uint64, key string, err error) {
	cm, ok := e.Object.(*corev1.ConfigMap)
	if !ok {
		return 0, "", fmt.Errorf("a watch of ConfigMaps was told of %v", kindOf(e.Object))
	}
	one := history.Event{Type: history.Info, Process: p.number, Node: p.node, Workload: p.workload, F: told, Key: cm.Name, Level: string(e.Type)}
	if err := answered(&one, cm); err != nil {
		return 0, "", err
	}
	if cm.Name != rootCA {
		p.run.Recorder.Record(one)
	}
	return one.Revision, cm.Name, nil
}

func kindOf(o runtime.Object) string {
	return strings.TrimPrefix(fmt.Sprintf("%T", o), "*")
}

func judgeWatches(h judged) []check.Anomaly {
	all, first, sure := h.watched()
	var streams [][]check.ObjectEvent
	for _, w := range all {
		streams = append(streams, w.Told)
	}
	timeline, found := check.NewTimeline(objectsOf(first.Items), first.Revision, sure, streams...)
	var writes []check.ObjectWrite
	var lists []check.Shown
	var latest []check.Point
	for _, op := range h.ops {
		switch {
		case op.Call.F == listed || op.Call.F == final:
			if op.Return.Type != history.OK {
				continue
			}
			lists = append(lists, shown(op))
			if op.Call.Level == "" {
				latest = append(latest, check.Point{Span: op.Span(), Outcome: check.OK, Revision: op.Return.Revision, What: op.String()})
			}
		case op.Call.F != "watch":
			writes = append(writes, objectWrite(op))
		}
	}
	bad, points := timeline.Writes(writes)
	found = append(found, bad...)
	found = append(found, timeline.Deletions(writes)...)
	found = append(found, timeline.Watches(all)...)
	found = append(found, timeline.Lists(lists)...)
	found = append(found, check.RealTime(append(points, latest...))...)
	return append(found, h.notTold()...)
}

// watched are all watches, the list that the first of them began after, and the revision
// through which it is certain that they were told of everything.
func (h judged) watched() (all []check.ObjectWatch, first history.Event, sure uint64) {
	open := make(map[int]int) // process → place in all
	for _, e := range h.events {
		switch {
		case e.F == listed && e.Type == history.OK && (first.F == "" || e.Revision < first.Revision):
			first = e
		case e.F == "watch" && e.Type == history.Invoke:
			open[e.Process] = len(all)
			all = append(all, check.ObjectWatch{
				What:  fmt.Sprintf("the watch of process %d on %s", e.Process, e.Node),
				Place: e.Index, From: e.At, Through: e.At,
			})
		case e.F == told:
			w := &all[open[e.Process]]
			w.Told = append(w.Told, check.ObjectEvent{
				Place: e.Index, Key: e.Key, Added: e.Level == string(watch.Added), Deleted: e.Level == string(watch.Deleted),
				Bookmark: e.Level == string(watch.Bookmark), Now: check.Object{Value: e.Value, Revision: e.Revision},
			})
			w.Through = max(w.Through, e.Revision)
		}
	}
	// Watches overlap; where none of them was, nothing is certain.
	sure = first.Revision
	byFrom := slices.SortedFunc(slices.Values(all), func(a, b check.ObjectWatch) int { return int(int64(a.From) - int64(b.From)) })
	for _, w := range byFrom {
		if w.From > sure {
			break
		}
		sure = max(sure, w.Through)
	}
	return all, first, sure
}

// unwatched tells from where on no watch may have been told all: where each had ended and
// could not go on, but had to begin with a list.
func unwatched(h judged) []string {
	_, _, sure := h.watched()
	for _, op := range h.ops {
		if op.Call.Key == sentinel && op.Return.Type == history.OK && op.Return.Revision > sure {
			return []string{fmt.Sprintf("no watch went on beyond revision %d without a gap, and the last is %d: what is between them is not judged", sure, op.Return.Revision)}
		}
	}
	return nil
}

// notTold tells which nodes' watches were not told all in the end.
func (h judged) notTold() (found []check.Anomaly) {
	waits := make(map[string]int64) // node → place of the last watch
	ended := false
	for _, e := range h.events {
		switch {
		case e.F == "watch" && e.Type == history.Invoke, e.F == listed && e.Type == history.Invoke:
			waits[e.Node] = e.Index
		case e.F == toldAll:
			delete(waits, e.Node)
		case e.F == "create" && e.Key == sentinel && e.Type == history.OK:
			ended = true
		}
	}
	if !ended {
		return []check.Anomaly{{Kind: "no answer in the end", Text: "the last object could not be created when all faults were over"}}
	}
	for _, node := range sortedKeys(waits) {
		found = append(found, check.Anomaly{Kind: "a watch fell behind", At: []int64{waits[node]},
			Text: fmt.Sprintf("the watch on %s was not told of the last object within %s, when all faults were over", node, finalTime)})
	}
	return found
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
