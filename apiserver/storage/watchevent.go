package storage

import (
	"errors"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"

	"kontiki/raftstore"
)

// sendEvent sends what event is to this watch's client, if it is anything.
func (w *objectWatch) sendEvent(event raftstore.Event) error {
	out, err := w.translate(event)
	if err != nil {
		w.s.logger.Error("an event cannot be read", "key", event.KV.Key, "revision", event.Revision(), "err", err)
		return err
	}
	if out == nil {
		return nil
	}
	return w.send(*out)
}

func (w *objectWatch) send(event watch.Event) error {
	if w.shape != nil {
		event.Object = w.bare(event.Object)
	}
	select {
	case w.results <- event:
		return nil
	case <-w.ctx.Done():
		return w.ctx.Err()
	}
}

// translate decides what a change of a value is to a client with this watch's
// selector: an object that leaves the selection is DELETED to it, one that comes
// into it is ADDED. nil is nothing.
func (w *objectWatch) translate(event raftstore.Event) (*watch.Event, error) {
	current, previous, err := w.objects(event)
	if err != nil {
		return nil, err
	}
	now, before := w.selects(current), w.selects(previous)
	switch {
	case event.Prev != nil && previous == nil && now: // not decoded, since nothing is filtered
		return &watch.Event{Type: watch.Modified, Object: current}, nil
	case now && before:
		return &watch.Event{Type: watch.Modified, Object: current}, nil
	case now:
		return &watch.Event{Type: watch.Added, Object: current}, nil
	case before:
		return &watch.Event{Type: watch.Deleted, Object: previous}, nil
	}
	return nil, nil
}

// objects decodes what the event holds as far as it is needed: the previous
// object of a change matters only to a selector. Both carry the revision of the
// event, so that a client can go on from a DELETED one.
//
// A watch that is alone owns them; others get objects that are shared.
func (w *objectWatch) objects(event raftstore.Event) (current, previous runtime.Object, err error) {
	decode := func(kv raftstore.KV) func() (runtime.Object, error) {
		return func() (runtime.Object, error) { return w.s.codec.object(w.ctx, kv, event.Revision()) }
	}
	var shared *sharedEvent
	if w.s.watching.Load() > 1 && !w.initial {
		shared = w.s.shared.of(event)
	}
	get := func(slot func(*sharedEvent) **sharedObject, kv raftstore.KV) (runtime.Object, error) {
		if shared == nil {
			return decode(kv)()
		}
		return shared.object(slot(shared), decode(kv))
	}
	if !event.Deleted {
		if current, err = get(currentOf, event.KV); err != nil {
			return nil, nil, err
		}
	}
	if event.Prev != nil && (event.Deleted || !w.opts.Predicate.Empty()) {
		if previous, err = get(previousOf, *event.Prev); err != nil {
			var corrupt *corruptObject
			if event.Deleted && errors.As(err, &corrupt) {
				err = &corruptDeleted{err: corrupt}
			}
			return nil, nil, err
		}
	}
	return current, previous, nil
}

func currentOf(e *sharedEvent) **sharedObject  { return &e.current }
func previousOf(e *sharedEvent) **sharedObject { return &e.previous }

func (w *objectWatch) selects(obj runtime.Object) bool {
	if obj == nil {
		return false
	}
	if w.opts.Predicate.Empty() {
		return true
	}
	if shared, ok := obj.(*sharedObject); ok {
		obj = shared.object // selectors only read
	}
	matched, err := w.opts.Predicate.Matches(obj)
	return err == nil && matched
}

// sendBookmark tells the client that it has everything up to w.through.
func (w *objectWatch) sendBookmark(endOfInitial bool) error {
	obj := w.s.newFunc()
	if err := w.s.versioner.UpdateObject(obj, w.through); err != nil {
		return fmt.Errorf("failed to set the resource version of a bookmark: %w", err)
	}
	if endOfInitial {
		if err := storage.AnnotateInitialEventsEndBookmark(obj); err != nil {
			return fmt.Errorf("failed to mark the end of the initial events of %s: %w", w.s.resource, err)
		}
	}
	if err := w.send(watch.Event{Type: watch.Bookmark, Object: obj}); err != nil {
		return err
	}
	w.marked = w.through
	return nil
}

// watchError is the last event of a watch that cannot go on.
func watchError(err error) watch.Event {
	var deleted *corruptDeleted
	switch {
	case errors.Is(err, raftstore.ErrCompacted):
		err = apierrors.NewResourceExpired(watchExpired)
	case errors.As(err, &deleted):
		err = &apierrors.StatusError{ErrStatus: metav1.Status{
			Status:  metav1.StatusFailure,
			Code:    http.StatusInternalServerError,
			Reason:  metav1.StatusReasonStoreReadError,
			Message: deleted.Error(),
		}}
	default:
		err = statusOf(err, "read", "watched objects")
	}
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		status = apierrors.NewInternalError(err)
	}
	out := status.Status()
	return watch.Event{Type: watch.Error, Object: &out}
}
