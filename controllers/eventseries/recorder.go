// Package eventseries tells events of events.k8s.io: each once, and the same one again as a
// series that counts, as client-go's recorder does. Unlike that it is bounded: in what it
// remembers, in what waits and in what is written at once, so that a burst neither takes
// memory nor the store away from what the events are about. What finds no room is dropped
// and counted in the log.
//
// book.go decides and is pure; recorder.go writes. Eventf may be called from anywhere, and
// never blocks. Only controllers import this package.
package eventseries

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	typedeventsv1 "k8s.io/client-go/kubernetes/typed/events/v1"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/tools/record/util"
	"k8s.io/client-go/tools/reference"
)

const (
	// remembered bounds the events that are known, those that wait to be written among
	// them; one costs some 600 bytes.
	remembered = 8192
	// writers bounds the writes under way. Events are the last that is in a hurry.
	writers = 4

	sweepEvery = time.Minute // while anything is remembered

	// A store that does not answer is asked again; upstream's pace.
	tries      = 12
	retryPause = 10 * time.Second
)

// Recorder tells events of several controllers. Make it with New; Run writes.
type Recorder struct {
	client   typedeventsv1.EventsV1Interface
	log      *slog.Logger
	now      func() time.Time
	instance string // of the machine

	mu      sync.Mutex // protects what follows
	book    *book
	dropped int

	wake chan struct{}
}

// New makes a recorder that writes with client.
func New(client typedeventsv1.EventsV1Interface, log *slog.Logger, now func() time.Time) *Recorder {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return &Recorder{client: client, log: log, now: now, instance: host, book: newBook(remembered), wake: make(chan struct{}, 1)}
}

// As tells events as the controller of a name.
func (r *Recorder) As(controller string) events.EventRecorder { return voice{r, controller} }

type voice struct {
	*Recorder
	controller string
}

// Eventf implements events.EventRecorder.
func (v voice) Eventf(regarding, related runtime.Object, kind, reason, action, note string, args ...any) {
	v.tell(v.controller, regarding, related, kind, reason, action, fmt.Sprintf(note, args...))
}

func (r *Recorder) tell(controller string, regarding, related runtime.Object, kind, reason, action, note string) {
	about, err := reference.GetReference(scheme.Scheme, regarding)
	if err != nil {
		r.log.Error("an event is about nothing that can be named", "reason", reason, "note", note, "error", err)
		return
	}
	k := key{kind: kind, action: action, reason: reason, controller: controller, regarding: *about}
	var with *corev1.ObjectReference
	if related != nil {
		if with, err = reference.GetReference(scheme.Scheme, related); err == nil {
			k.related = *with
		}
	}
	now := r.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.book.tell(k, now, func() *eventsv1.Event {
		namespace := about.Namespace
		if namespace == "" {
			namespace = metav1.NamespaceDefault
		}
		return &eventsv1.Event{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: util.GenerateEventName(about.Name, now.UnixNano())},
			EventTime:  metav1.NewMicroTime(now), ReportingController: controller, ReportingInstance: controller + "-" + r.instance,
			Action: action, Reason: reason, Regarding: *about, Related: with, Note: note, Type: kind,
		}
	}) {
		r.dropped++
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run writes events until ctx ends. What waits then is lost, as the events of a process
// that dies are.
func (r *Recorder) Run(ctx context.Context) {
	var writing sync.WaitGroup
	defer writing.Wait()
	slots := make(chan struct{}, writers)
	sweep := time.NewTimer(sweepEvery)
	defer sweep.Stop()
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		w, quiet, err := r.next(ctx, sweep)
		if err != nil {
			return
		}
		if quiet > 0 {
			r.log.Warn("events were dropped: more were told than could be written", "count", quiet)
		}
		writing.Go(func() {
			defer func() { <-slots }()
			ok := r.write(ctx, w)
			r.mu.Lock()
			defer r.mu.Unlock()
			r.book.settle(w, ok, r.now())
			select {
			case r.wake <- struct{}{}: // it may be due again
			default:
			}
		})
	}
}

// next waits for what is to be written. When that came to an end, it says how many events
// were dropped before.
func (r *Recorder) next(ctx context.Context, sweep *time.Timer) (w write, dropped int, err error) {
	for {
		r.mu.Lock()
		w = r.book.next()
		if r.book.due.Len() == 0 {
			dropped += r.dropped
			r.dropped = 0
		}
		idle := len(r.book.all) == 0
		r.mu.Unlock()
		if w.of != nil {
			return w, dropped, nil
		}
		if idle {
			sweep.Stop()
		}
		select {
		case <-r.wake:
			if idle {
				sweep.Reset(sweepEvery)
			}
		case <-sweep.C:
			r.mu.Lock()
			r.book.sweep(r.now())
			r.mu.Unlock()
			sweep.Reset(sweepEvery)
		case <-ctx.Done():
			return w, 0, ctx.Err()
		}
	}
}

// write makes one write, and tries again while the store does not answer.
func (r *Recorder) write(ctx context.Context, w write) bool {
	for range tries {
		err := r.once(ctx, w)
		switch {
		case err == nil:
			return true
		case ctx.Err() != nil:
			return false
		case !mayPass(err):
			r.log.Debug("an event was refused", "event", w.event.Namespace+"/"+w.event.Name, "error", err)
			return false
		}
		select {
		case <-time.After(retryPause):
		case <-ctx.Done():
			return false
		}
	}
	r.log.Warn("an event could not be written", "event", w.event.Namespace+"/"+w.event.Name)
	return false
}

func (r *Recorder) once(ctx context.Context, w write) error {
	client := r.client.Events(w.event.Namespace)
	if !w.create {
		patch, err := json.Marshal(map[string]any{"series": w.event.Series})
		if err != nil {
			return err
		}
		_, err = client.Patch(ctx, w.event.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
		if !apierrors.IsNotFound(err) { // it has expired
			return err
		}
	}
	_, err := client.Create(ctx, w.event, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil // an earlier try came through
	}
	return err
}

// mayPass tells an API that does not answer from one that has refused.
func mayPass(err error) bool {
	var status apierrors.APIStatus
	return !errors.As(err, &status) || apierrors.IsServiceUnavailable(err) || apierrors.IsTimeout(err) ||
		apierrors.IsServerTimeout(err) || apierrors.IsTooManyRequests(err)
}
