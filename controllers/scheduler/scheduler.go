package scheduler

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/events"
)

// Name is the scheduler's name in logs; Component is the source of its events and
// the spec.schedulerName it answers to.
const (
	Name      = "scheduler"
	Component = corev1.DefaultSchedulerName
)

// maxWrites bounds the bindings and status patches under way at once.
const maxWrites = 64

// Events tells events as the controller of a name: that of a profile, as upstream.
type Events interface {
	As(controller string) events.EventRecorder
}

// Scheduler gives pods nodes.
type Scheduler struct {
	client  kubernetes.Interface
	events  Events
	log     *slog.Logger
	now     func() time.Time
	watched watched
	volumes *volumeStore
	cache   *nodeCache
	metrics *Metrics

	start int // of the planning goroutine

	profiles atomic.Pointer[profiles]

	mu    sync.Mutex // protects queue and gated
	queue *queue
	gated map[types.UID]struct{} // pods that would be in the queue, but for their scheduling gates
	wake  chan struct{}

	writes sync.WaitGroup
	slots  chan struct{}
}

// New makes the scheduler. It reads from the shared informers and writes with client.
func New(client kubernetes.Interface, shared informers.SharedInformerFactory, events Events, log *slog.Logger, now func() time.Time) *Scheduler {
	s := &Scheduler{
		client: client, events: events, log: log.With("controller", Name), now: now,
		watched: newWatched(shared), volumes: newVolumeStore(shared),
		cache: newCache(), queue: newQueue(), gated: map[types.UID]struct{}{}, metrics: NewMetrics(),
		wake:  make(chan struct{}, 1),
		slots: make(chan struct{}, maxWrites),
	}
	s.profiles.Store(&profiles{Component: defaultOptions().build()})
	return s
}

// Run schedules until ctx ends, or planning panics (returned as an error). All
// writes under way have ended when it returns.
func (s *Scheduler) Run(ctx context.Context) (err error) {
	defer s.writes.Wait()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("scheduler panicked: %v\n%s", p, debug.Stack())
		}
	}()
	stop, err := s.watch(ctx)
	if err != nil || ctx.Err() != nil {
		return err
	}
	defer stop()
	defer s.metrics.follow(s)()
	for s.sleep(ctx) {
		s.round(ctx)
	}
	return nil
}

// sleep waits until a pod is active; false when ctx has ended.
func (s *Scheduler) sleep(ctx context.Context) bool {
	for {
		s.mu.Lock()
		wait := s.queue.sleep(s.now())
		s.mu.Unlock()
		if wait == 0 {
			return ctx.Err() == nil
		}
		var timeout <-chan time.Time
		if wait != foreverAsleep {
			timer := time.NewTimer(wait)
			timeout = timer.C
		}
		select {
		case <-ctx.Done():
			return false
		case <-s.wake:
		case <-timeout:
		}
	}
}

// round plans one batch and starts the writes that follow from it.
func (s *Scheduler) round(ctx context.Context) {
	s.mu.Lock()
	batch := s.queue.pop(maxBatch, s.now())
	nominated := s.queue.nominatedPods()
	s.mu.Unlock()
	var pods []*placed
	waited := map[types.UID]*waiting{}
	with := *s.profiles.Load()
	for _, w := range batch {
		switch {
		case s.cache.knows(w.pod.UID):
		case with.of(w.pod) == nil: // its profile was taken away meanwhile
			s.dequeue(w.pod)
		default:
			pods = append(pods, w.placed)
			waited[w.pod.UID] = w
		}
	}
	if len(pods) == 0 {
		return
	}
	nodes, domains := s.cache.infos()
	snapshot := Snapshot{
		nodes: nodes, domains: domains, start: s.start, nominated: nominated, budgets: s.watched.disruptionBudgets(),
		selector: s.watched.defaultSelector, namespace: s.watched.namespaceLabels, volumes: s.volumes.view(),
	}
	began := time.Now()
	decisions := plan(snapshot, with, pods)
	s.metrics.planned(len(pods), time.Since(began))
	for _, d := range decisions {
		w := waited[d.pod.UID]
		d.began, d.since, d.attempts = began, w.since, w.attempts
		s.carryOut(ctx, d)
	}
}

// carryOut takes note of a decision and starts writing it.
func (s *Scheduler) carryOut(ctx context.Context, d decision) {
	uid := d.pod.UID
	if d.room.sought {
		s.metrics.preempts(d.room)
	}
	switch {
	case d.node != "":
		s.start++
		s.nominate(uid, "")
		s.cache.assume(d.placed, d.node)
		if !d.volumes.none() {
			s.bindVolumes(ctx, d)
			return
		}
		s.write(ctx, uid, func() { s.bind(ctx, d) })
	case d.room.node != "":
		s.metrics.tried(d, resultUnschedulable)
		s.mu.Lock()
		s.queue.hold(uid, d.helps)
		s.queue.nominate(uid, d.room.node)
		for _, other := range d.room.yield {
			s.queue.nominate(other.pod.UID, "")
		}
		s.mu.Unlock()
		s.write(ctx, uid, func() { s.makeRoom(ctx, d) })
	default:
		s.metrics.tried(d, resultUnschedulable)
		if d.room.give {
			s.nominate(uid, "")
		}
		s.requeue(uid, d.helps)
		s.write(ctx, nobody, func() { s.reportFailure(ctx, d) })
	}
}

// nobody is the pod that waits for a write which concerns no pod in flight.
const nobody types.UID = ""

// write runs do in its own goroutine as soon as there is a slot.
func (s *Scheduler) write(ctx context.Context, waits types.UID, do func()) {
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return
	}
	s.writes.Go(func() {
		defer func() { <-s.slots }()
		defer s.contain("write", waits)
		do()
	})
}

// contain, deferred, ends a panic. The pod that waited for what panicked is planned again: it
// would else count on its node, or be held for its victims, for as long as this process leads.
func (s *Scheduler) contain(what string, waits types.UID) {
	if p := recover(); p != nil {
		s.log.Error(what+" panicked", "panic", p, "stack", string(debug.Stack()))
		s.cache.forget(waits)
		s.requeue(waits, help{})
	}
}

func (s *Scheduler) bind(ctx context.Context, d decision) {
	err := s.client.CoreV1().Pods(d.pod.Namespace).Bind(ctx, &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: d.pod.Namespace, Name: d.pod.Name, UID: d.pod.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: d.node},
	}, metav1.CreateOptions{})
	if err == nil {
		s.metrics.tried(d, resultScheduled)
		s.tell(d.pod, d.pod, nil, corev1.EventTypeNormal, "Scheduled", "Binding", "Successfully assigned %s/%s to %s", d.pod.Namespace, d.pod.Name, d.node)
		return
	}
	s.cache.forget(d.pod.UID)
	if apierrors.IsNotFound(err) || ctx.Err() != nil {
		return
	}
	s.metrics.tried(d, resultError)
	s.requeue(d.pod.UID, help{})
	if !apierrors.IsConflict(err) {
		s.log.Warn("binding not written, trying again", "pod", d.pod.Namespace+"/"+d.pod.Name, "node", d.node, "error", err)
	}
}

// tell has an event about something, as the profile that plans pod.
func (s *Scheduler) tell(pod *corev1.Pod, about, with runtime.Object, kind, reason, action, note string, args ...any) {
	s.events.As(cmp.Or(pod.Spec.SchedulerName, Component)).Eventf(about, with, kind, reason, action, note, args...)
}

func (s *Scheduler) requeue(uid types.UID, helps help) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue.failed(uid, helps, s.now())
	s.poke()
}

// poke wakes the planning goroutine; it never blocks.
func (s *Scheduler) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *Scheduler) nominate(uid types.UID, node string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue.nominate(uid, node)
}
