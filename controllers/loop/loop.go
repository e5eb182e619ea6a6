// Package loop is the queue and the workers every controller stands on: events
// of informers become keys, a key is worked on by one worker at a time, a failed
// key comes back with back-off.
//
// A Loop may be fed from any goroutine. Run returns only when its workers have
// stopped and its event handlers are removed, so a controller that panicked can be
// started again on the same informers. Only controllers import this package.
package loop

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

const (
	firstRetry = 5 * time.Millisecond
	lastRetry  = time.Minute
)

// Loop is one controller's work queue. Make one per run with New.
type Loop struct {
	name  string
	log   *slog.Logger
	queue workqueue.TypedRateLimitingInterface[string]
	clock *busyClock

	mu       sync.Mutex // protects handlers
	handlers []handler

	failOnce sync.Once
	failed   chan struct{}
	failure  error // set before failed is closed
}

type handler struct {
	informer     cache.SharedIndexInformer
	registration cache.ResourceEventHandlerRegistration
}

// New makes the loop of the controller called name. Its queue tells the workqueue_*
// metrics of upstream under that name, where the process has a provider for them.
func New(name string, log *slog.Logger) *Loop {
	clock := newBusyClock()
	return &Loop{
		name:  name,
		log:   log.With("controller", name),
		clock: clock,
		queue: workqueue.NewTypedRateLimitingQueueWithConfig(
			workqueue.NewTypedItemExponentialFailureRateLimiter[string](firstRetry, lastRetry),
			workqueue.TypedRateLimitingQueueConfig[string]{Name: name, Clock: clock}),
		failed: make(chan struct{}),
	}
}

// Add queues a key.
func (l *Loop) Add(key string) { l.queue.Add(key) }

// AddAfter queues a key when d has passed.
func (l *Loop) AddAfter(key string, d time.Duration) { l.queue.AddAfter(key, d) }

// AddObject queues the namespace/name key of an object.
func (l *Loop) AddObject(obj any) {
	key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj)
	if err != nil {
		l.fail(fmt.Errorf("key of %T: %w", obj, err))
		return
	}
	l.queue.Add(key)
}

// On calls changed for every event of the informer: before is nil for an object
// that appears, after is nil for one that went. An informer that was cut off for a
// while tells of an object that was deleted and made again in one update; that is told
// as what it was, first the one that went and then the other. changed must be quick and
// must not write to its arguments.
func On[T any](l *Loop, informer cache.SharedIndexInformer, changed func(before, after *T)) error {
	call := func(before, after any) {
		defer l.recovered("an event handler")
		var b, a *T
		if before != nil {
			b = before.(*T)
		}
		if after != nil {
			a = after.(*T)
		}
		changed(b, a)
	}
	return l.handle(informer, cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { call(nil, obj) },
		UpdateFunc: func(before, after any) {
			if replaced(before, after) {
				call(before, nil)
				before = nil
			}
			call(before, after)
		},
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			call(obj, nil)
		},
	})
}

// OnObject queues the key of each object of the informer, whatever happens to it.
func (l *Loop) OnObject(informer cache.SharedIndexInformer) error {
	return l.handle(informer, cache.ResourceEventHandlerFuncs{
		AddFunc: l.AddObject, UpdateFunc: func(_, after any) { l.AddObject(after) }, DeleteFunc: l.AddObject,
	})
}

// replaced says whether two versions under one name are of different objects.
func replaced(before, after any) bool {
	b, err := meta.Accessor(before)
	if err != nil {
		return false
	}
	a, err := meta.Accessor(after)
	return err == nil && a.GetUID() != b.GetUID()
}

func (l *Loop) handle(informer cache.SharedIndexInformer, events cache.ResourceEventHandler) error {
	registration, err := informer.AddEventHandler(events)
	if err != nil {
		return fmt.Errorf("watch for controller %s: %w", l.name, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.handlers = append(l.handlers, handler{informer, registration})
	return nil
}

// Run works on keys with the given number of workers until ctx ends (nil) or
// do or a handler panics (the panic as an error).
func (l *Loop) Run(ctx context.Context, workers int, do func(ctx context.Context, key string) error) error {
	defer l.removeHandlers()
	defer l.drain()
	defer l.queue.ShutDown()
	if !l.waitForSync(ctx) {
		return l.outcome()
	}
	return l.work(ctx, workers, do)
}

func (l *Loop) work(ctx context.Context, workers int, do func(context.Context, string) error) error {
	var running sync.WaitGroup
	for range workers {
		running.Go(func() {
			for l.next(ctx, do) {
			}
		})
	}
	select {
	case <-ctx.Done():
	case <-l.failed:
	}
	l.queue.ShutDown()
	running.Wait()
	return l.outcome()
}

// drain takes what is left out of the queue, so that its depth does not stand for ever in
// the metrics, on which the loop of the next leadership goes on.
func (l *Loop) drain() {
	for l.queue.Len() > 0 {
		if key, shutdown := l.queue.Get(); !shutdown {
			l.queue.Done(key)
		}
	}
}

func (l *Loop) next(ctx context.Context, do func(context.Context, string) error) bool {
	key, shutdown := l.queue.Get()
	if shutdown {
		return false
	}
	l.clock.begin()
	defer l.clock.end()
	defer l.queue.Done(key)
	if ctx.Err() != nil {
		return false
	}
	defer l.recovered(key)
	err := do(ctx, key)
	switch {
	case err == nil:
		l.queue.Forget(key)
	case ctx.Err() != nil:
	default:
		if !Expected(err) {
			l.log.Warn("sync failed, trying again", "key", key, "error", err)
		}
		l.queue.AddRateLimited(key)
	}
	return true
}

// Expected says whether an error is part of ordinary life with a cache that is a
// little behind: a conflict, or an object that is already gone.
func Expected(err error) bool {
	return apierrors.IsConflict(err) || apierrors.IsNotFound(err) || errors.Is(err, context.Canceled)
}

// IgnoreNotFound is err, but nil if that says that the object is gone.
func IgnoreNotFound(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func (l *Loop) waitForSync(ctx context.Context) bool {
	l.mu.Lock()
	handlers := append([]handler(nil), l.handlers...)
	l.mu.Unlock()
	stop := make(chan struct{})
	var watching sync.WaitGroup
	defer watching.Wait()
	done := make(chan struct{})
	defer close(done)
	watching.Go(func() {
		defer close(stop)
		select {
		case <-ctx.Done():
		case <-l.failed:
		case <-done:
		}
	})
	for _, h := range handlers {
		if !cache.WaitForCacheSync(stop, h.registration.HasSynced) {
			return false
		}
	}
	return true
}

func (l *Loop) removeHandlers() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, h := range l.handlers {
		if err := h.informer.RemoveEventHandler(h.registration); err != nil {
			l.log.Error("event handler not removed", "error", err)
		}
	}
	l.handlers = nil
}

func (l *Loop) recovered(where string) {
	if p := recover(); p != nil {
		l.fail(fmt.Errorf("controller %s panicked at %s: %v\n%s", l.name, where, p, debug.Stack()))
	}
}

func (l *Loop) fail(err error) {
	l.failOnce.Do(func() {
		l.failure = err
		close(l.failed)
	})
}

func (l *Loop) outcome() error {
	select {
	case <-l.failed:
		return l.failure
	default:
		return nil
	}
}
