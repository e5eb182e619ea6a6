package storage

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	utilflowcontrol "k8s.io/apiserver/pkg/util/flowcontrol"

	"kontiki/raftstore"
)

const (
	// watchBuffer is how many events wait for a slow reader before its cursor
	// stays where it is; from there on it has until the store's ring of events
	// has gone past it.
	watchBuffer = 100

	// bookmarkInterval is how often a watch whose client takes bookmarks tells it
	// how far it has come, if it has come further. Each client draws its own
	// interval from [1, 1.25) times this, so that they do not beat together.
	bookmarkInterval = time.Minute

	// bookmarkBeforeEnd is how long before the end of the request a last bookmark
	// is sent: the client goes on from there instead of from its last event.
	bookmarkBeforeEnd = 2 * time.Second

	// progressInterval is bookmarkInterval for those who ask for progress
	// notifications inside this process, as a cache would.
	progressInterval = time.Second
)

// Watch implements storage.Interface. Where it starts is resolved before it
// returns, so that a missing quorum is a status and not an event.
func (s *Storage) Watch(ctx context.Context, key string, opts storage.ListOptions) (watch.Interface, error) {
	key, err := s.key(key, opts.Recursive)
	if err != nil {
		return nil, err
	}
	revision, err := s.versioner.ParseResourceVersion(opts.ResourceVersion)
	if err != nil {
		return nil, err
	}
	if (opts.ProgressNotify || opts.Predicate.AllowWatchBookmarks) && s.newFunc == nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("watches of %s cannot send bookmarks: no NewFunc was configured", s.resource))
	}
	start, err := s.watchStart(ctx, key, revision, opts)
	w := s.newWatch(ctx, key, start, opts)
	switch {
	case ctx.Err() != nil: // the caller has gone; this is not worth an error
	case storage.IsTooLargeResourceVersion(err):
		w.startErr = err // upstream tells this in the stream
	case err != nil:
		return nil, err
	}
	if !s.register(w) {
		return nil, statusOf(raftstore.ErrClosed, "read", key)
	}
	stream := w.take(ctx)
	go w.run()
	return stream, nil
}

// watchStart is where a watch begins.
type watchStart struct {
	after   uint64          // events with larger revisions are sent
	initial *raftstore.View // its objects are sent first, nil for none
	endMark bool            // a bookmark says where the initial ones end
}

// watchStart resolves what resourceVersion and sendInitialEvents ask for:
//
//	sendInitialEvents  ""                 "0"                N
//	not given          latest, objects    local, objects     after N
//	true               latest, objects    local, objects     not older than N, objects
//	false              after the latest   after the local    after N
func (s *Storage) watchStart(ctx context.Context, key string, revision uint64, opts storage.ListOptions) (watchStart, error) {
	watchList := utilfeature.DefaultFeatureGate.Enabled(features.WatchList)
	asked := watchList && opts.SendInitialEvents != nil && *opts.SendInitialEvents
	legacy := revision == 0 && (opts.SendInitialEvents == nil || !watchList)
	if revision > 0 && !asked {
		return watchStart{after: revision}, nil
	}
	view, err := s.viewNotOlder(ctx, opts.ResourceVersion, key)
	if err != nil {
		return watchStart{}, err
	}
	start := watchStart{after: view.Revision()}
	if asked || legacy {
		start.initial = &view
		start.endMark = asked && opts.Predicate.AllowWatchBookmarks
	}
	return start, nil
}

// register takes w into the set that Stop ends; false after Stop.
func (s *Storage) register(w *objectWatch) bool {
	s.watchMu.Lock()
	defer s.watchMu.Unlock()
	if s.stopped {
		return false
	}
	s.watches[w] = struct{}{}
	s.watching.Store(int64(len(s.watches)))
	s.running.Add(1)
	return true
}

func (s *Storage) unregister(w *objectWatch) {
	s.watchMu.Lock()
	delete(s.watches, w)
	s.watching.Store(int64(len(s.watches)))
	if len(s.watches) < 2 {
		s.shared.clear()
	}
	s.watchMu.Unlock()
	s.running.Done()
}

// RequestWatchProgress implements storage.Interface: every watch that was opened
// for progress notifications sends one now.
func (s *Storage) RequestWatchProgress(context.Context) error {
	s.watchMu.Lock()
	defer s.watchMu.Unlock()
	for w := range s.watches {
		if w.opts.ProgressNotify {
			w.requestProgress()
		}
	}
	return nil
}

// objectWatch is the watch.Interface of one watch. One goroutine reads the
// store's events, decodes them and sends them; it is the only sender on results,
// so that nothing can follow an error.
type objectWatch struct {
	s        *Storage
	key      string
	opts     storage.ListOptions
	start    watchStart
	startErr error
	ctx      context.Context // ends with the request and with Stop
	cancel   context.CancelFunc
	results  chan watch.Event

	shape   func(runtime.Object) runtime.Object // of a tap, nil without one
	emptied chan watch.Event                    // closed when a tapped watch ends

	initial  bool          // the objects of the starting view are being sent
	interval time.Duration // between bookmarks, 0 for none
	progress chan struct{} // holds a request for progress
	marked   uint64        // revision of the last bookmark sent, at first the start
	through  uint64        // everything up to it was seen
}

func (s *Storage) newWatch(ctx context.Context, key string, start watchStart, opts storage.ListOptions) *objectWatch {
	w := &objectWatch{
		s: s, key: key, opts: opts, start: start,
		results:  make(chan watch.Event, watchBuffer),
		progress: make(chan struct{}, 1),
		marked:   start.after,
		through:  start.after,
	}
	w.ctx, w.cancel = context.WithCancel(ctx)
	switch {
	case opts.ProgressNotify:
		w.interval = progressInterval
	case opts.Predicate.AllowWatchBookmarks:
		w.interval = bookmarkInterval + rand.N(bookmarkInterval/4)
	}
	return w
}

// ResultChan implements watch.Interface.
func (w *objectWatch) ResultChan() <-chan watch.Event { return w.results }

// Stop implements watch.Interface.
func (w *objectWatch) Stop() { w.cancel() }

func (w *objectWatch) requestProgress() {
	select {
	case w.progress <- struct{}{}:
	default:
	}
}

func (w *objectWatch) run() {
	defer w.s.unregister(w)
	defer close(w.results)
	if w.emptied != nil {
		defer close(w.emptied)
	}
	defer w.cancel()
	err := w.startErr
	if err == nil {
		err = w.sendInitial()
	}
	// The request's seat in the server's queue was for this part only.
	utilflowcontrol.WatchInitialized(w.ctx)
	if err == nil {
		err = w.follow()
	}
	if w.ctx.Err() != nil {
		return
	}
	select {
	case w.results <- watchError(err):
	case <-w.ctx.Done():
	}
}

// sendInitial sends the objects of the starting view, and the mark behind them.
func (w *objectWatch) sendInitial() error {
	if w.start.initial == nil {
		return nil
	}
	w.initial = true
	defer func() { w.initial = false }()
	var err error
	send := func(kv raftstore.KV) bool {
		err = w.sendEvent(raftstore.Event{KV: kv})
		return err == nil
	}
	if w.opts.Recursive {
		w.start.initial.Range(w.key, prefixEnd(w.key), 0, send)
	} else if kv, ok := w.start.initial.Get(w.key); ok {
		send(kv)
	}
	w.start.initial = nil // it holds a whole tree
	if err == nil && w.start.endMark {
		err = w.sendBookmark(true)
	}
	return err
}

// follow sends what happens after the start until the watch ends.
func (w *objectWatch) follow() error {
	events, err := w.s.store.Watch(w.key, w.start.after)
	if err != nil {
		return err
	}
	defer events.Close()
	for w.ctx.Err() == nil {
		if err := w.followUntilBookmark(events); err != nil {
			return err
		}
	}
	return w.ctx.Err()
}

// followUntilBookmark sends events until the next bookmark is due, and that.
func (w *objectWatch) followUntilBookmark(events *raftstore.Watch) error {
	round, stop := w.bookmarkRound()
	defer stop()
	// Next looks at round only when it has nothing to tell, which may be never
	// while other resources are written.
	for round.Err() == nil {
		batch, through, err := events.Next(round)
		if err != nil && round.Err() == nil {
			return err
		}
		for _, event := range batch {
			if !w.opts.Recursive && event.KV.Key != w.key {
				continue
			}
			if err := w.sendEvent(event); err != nil {
				return err
			}
		}
		w.through = max(w.through, through)
	}
	if w.ctx.Err() != nil {
		return w.ctx.Err()
	}
	if w.through > w.marked || errors.Is(context.Cause(round), errProgressRequested) {
		return w.sendBookmark(false)
	}
	return nil
}

var errProgressRequested = errors.New("storage: the progress of the watch was asked for")

// bookmarkRound returns a context that ends when the next bookmark is due.
func (w *objectWatch) bookmarkRound() (context.Context, context.CancelFunc) {
	if w.interval == 0 {
		return w.ctx, func() {}
	}
	due := time.Now().Add(w.interval)
	if end, ok := w.ctx.Deadline(); ok {
		if last := end.Add(-bookmarkBeforeEnd); last.After(time.Now()) && last.Before(due) {
			due = last
		}
	}
	round, cancel := context.WithDeadline(w.ctx, due)
	if !w.opts.ProgressNotify {
		return round, cancel
	}
	asked, cancelAsked := context.WithCancelCause(round)
	go func() {
		select {
		case <-w.progress:
			cancelAsked(errProgressRequested)
		case <-asked.Done():
		}
	}()
	return asked, func() { cancelAsked(nil); cancel() }
}
