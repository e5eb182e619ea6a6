package scheduler

import (
	"cmp"
	"container/heap"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// Upstream's podInitialBackoffSeconds, podMaxBackoffSeconds, and the time after
// which an unschedulable pod is tried again without any event.
const (
	firstBackoff  = time.Second
	longestWait   = 10 * time.Second
	unheardRetry  = 5 * time.Minute
	maxBatch      = 256
	foreverAsleep = time.Duration(1<<63 - 1)
	// maxHeard bounds what is remembered of changes during one round of planning.
	maxHeard = 10_000
)

type station int

const (
	active station = iota
	backingOff
	unschedulable
	inFlight
	makingRoom // its victims are being told to leave
	gone
)

// waiting is a pod in the queue.
type waiting struct {
	*placed
	at       station
	attempts int
	since    time.Time // added
	tried    time.Time // last attempt
	helps    help      // what would move it out of unschedulable
	touched  bool      // changed by a user while it was in flight
	helped   bool      // while room was being made, something happened that may help
	until    time.Time // end of back-off
	// nominated is the node at which room was made for it.
	nominated string
}

// queue holds the pods that wait for a node. Time is passed in. It is not safe
// for concurrent use.
type queue struct {
	pods     map[types.UID]*waiting
	parked   map[types.UID]*waiting // those of pods that are unschedulable
	held     map[types.UID]*waiting // those for which room is being made
	nominees map[types.UID]*waiting // those with a nominated node
	active   podHeap
	backoff  podHeap  // waits though something may have helped: tried when nothing is active
	stalled  podHeap  // waits because writing failed: tried when its time is over
	heard    []change // since the last pop
	deaf     bool     // heard is not all

	counted func(where, why string) // a pod came to active, backoff or unschedulable
}

// Why a pod came to where it waits, in upstream's words; other reasons are changes of the
// cluster (change.label).
const (
	podCame       = "UnscheduledPodAdd"
	podChanged    = "TargetPodUpdate"
	attemptFailed = "ScheduleAttemptFailure"
	backoffOver   = "BackoffComplete"
	tookEarly     = "PopFromBackoffQ"
	waitedLong    = "UnschedulableTimeout"
)

func newQueue() *queue {
	soonest := func(a, b *waiting) bool { return a.until.Before(b.until) }
	return &queue{
		pods:   map[types.UID]*waiting{},
		parked: map[types.UID]*waiting{},
		held:   map[types.UID]*waiting{}, nominees: map[types.UID]*waiting{},
		active: podHeap{less: func(a, b *waiting) bool {
			return cmp.Or(cmp.Compare(b.priority, a.priority), a.since.Compare(b.since)) < 0
		}},
		backoff: podHeap{less: soonest}, stalled: podHeap{less: soonest},
		counted: func(string, string) {},
	}
}

// set adds a pod or takes its new version; a changed unschedulable pod is tried again.
func (q *queue) set(pod *placed, specChanged bool, now time.Time) {
	w, ok := q.pods[pod.pod.UID]
	if !ok {
		w = &waiting{placed: pod, since: now}
		q.pods[pod.pod.UID] = w
		q.nominate(pod.pod.UID, pod.pod.Status.NominatedNodeName)
		q.activate(w, podCame)
		return
	}
	w.placed = pod
	if specChanged {
		if w.at == unschedulable {
			q.retry(w, now, podChanged)
		}
		w.touched = true
	}
}

// remove drops a pod that was deleted or bound.
func (q *queue) remove(uid types.UID) {
	if w, ok := q.pods[uid]; ok {
		w.at = gone // heaps drop it when they meet it
		for _, those := range []map[types.UID]*waiting{q.pods, q.parked, q.held, q.nominees} {
			delete(those, uid)
		}
	}
}

// pop takes up to max pods to be planned, most important first. While none is
// active, those that wait for the end of their back-off are taken.
func (q *queue) pop(max int, now time.Time) []*waiting {
	q.wake(now)
	q.heard, q.deaf = nil, false
	var batch []*waiting
	for len(batch) < max {
		w := q.active.next(active)
		if w == nil && len(batch) == 0 {
			if w = q.backoff.next(backingOff); w != nil {
				q.counted("active", tookEarly)
			}
		}
		if w == nil {
			break
		}
		w.at, w.touched, w.helped, w.tried = inFlight, false, false, now
		w.attempts++
		batch = append(batch, w)
	}
	return batch
}

// failed puts a pod that was popped aside until something helps. An attempt that
// failed for another reason (no events) is repeated after back-off.
func (q *queue) failed(uid types.UID, helps help, now time.Time) {
	w, ok := q.pods[uid]
	if !ok || w.at != inFlight && w.at != makingRoom {
		return
	}
	delete(q.held, uid)
	if w.helps = helps; helps.events == 0 {
		q.stall(w, now)
		return
	}
	if w.touched || w.helped || q.deaf || slices.ContainsFunc(q.heard, helps.by) {
		q.retry(w, now, attemptFailed)
		return
	}
	w.at = unschedulable
	q.parked[uid] = w
	q.counted("unschedulable", attemptFailed)
}

// hold keeps a pod back while its victims are being told to leave, so that it does
// not look for others; failed ends that.
func (q *queue) hold(uid types.UID, helps help) {
	if w, ok := q.pods[uid]; ok && w.at == inFlight {
		w.at, w.helps = makingRoom, helps
		w.helped = q.deaf || slices.ContainsFunc(q.heard, helps.by)
		q.held[uid] = w
	}
}

// nominate notes where room is made for a pod; nowhere, if node is empty.
func (q *queue) nominate(uid types.UID, node string) {
	w, ok := q.pods[uid]
	if !ok {
		return
	}
	w.nominated = node
	delete(q.nominees, uid)
	if node != "" {
		q.nominees[uid] = w
	}
}

// nominatedPods are the pods for which room is made, by node.
func (q *queue) nominatedPods() map[string][]*placed {
	all := map[string][]*placed{}
	for _, w := range q.nominees {
		all[w.nominated] = append(all[w.nominated], w.placed)
	}
	for _, pods := range all {
		slices.SortFunc(pods, importance)
	}
	return all
}

// happened moves the pods that the change may help.
func (q *queue) happened(e change, now time.Time) {
	if len(q.heard) < maxHeard {
		q.heard = append(q.heard, e)
	} else {
		q.deaf = true
	}
	for _, w := range q.parked {
		if w.helps.by(e) {
			q.retry(w, now, e.label())
		}
	}
	for _, w := range q.held {
		w.helped = w.helped || w.helps.by(e)
	}
}

// sleep is how long nothing will become active by itself; 0 if something is.
func (q *queue) sleep(now time.Time) time.Duration {
	q.wake(now)
	if q.active.peek(active) != nil || q.backoff.peek(backingOff) != nil {
		return 0
	}
	next := foreverAsleep
	if w := q.stalled.peek(backingOff); w != nil {
		next = w.until.Sub(now)
	}
	for _, w := range q.parked {
		next = min(next, w.tried.Add(unheardRetry).Sub(now))
	}
	return max(next, time.Millisecond)
}

func (q *queue) wake(now time.Time) {
	for _, h := range []*podHeap{&q.backoff, &q.stalled} {
		for w := h.peek(backingOff); w != nil && !w.until.After(now); w = h.peek(backingOff) {
			q.activate(h.next(backingOff), backoffOver)
		}
	}
	for _, w := range q.parked {
		if !w.tried.Add(unheardRetry).After(now) {
			q.activate(w, waitedLong)
		}
	}
}

// wait is how long after its last attempt the pod may be tried again.
func (w *waiting) wait() time.Duration {
	if w.attempts >= 5 {
		return longestWait
	}
	return min(longestWait, firstBackoff<<max(0, w.attempts-1))
}

func (q *queue) retry(w *waiting, now time.Time, why string) {
	delete(q.parked, w.pod.UID)
	w.until = w.tried.Add(w.wait())
	if !w.until.After(now) {
		q.activate(w, why)
		return
	}
	w.at = backingOff
	heap.Push(&q.backoff, w)
	q.counted("backoff", why)
}

// stall is retry for a pod that could not be written: trying at once would fail again.
func (q *queue) stall(w *waiting, now time.Time) {
	w.until = now.Add(w.wait())
	w.at = backingOff
	heap.Push(&q.stalled, w)
	q.counted("backoff", attemptFailed)
}

func (q *queue) activate(w *waiting, why string) {
	delete(q.parked, w.pod.UID)
	w.at = active
	heap.Push(&q.active, w)
	q.counted("active", why)
}

type podHeap struct {
	items []*waiting
	less  func(a, b *waiting) bool
}

func (h *podHeap) Len() int           { return len(h.items) }
func (h *podHeap) Less(i, j int) bool { return h.less(h.items[i], h.items[j]) }
func (h *podHeap) Swap(i, j int)      { h.items[i], h.items[j] = h.items[j], h.items[i] }
func (h *podHeap) Push(x any)         { h.items = append(h.items, x.(*waiting)) }
func (h *podHeap) Pop() any {
	last := h.items[len(h.items)-1]
	h.items = h.items[:len(h.items)-1]
	return last
}

// peek is the first pod that is still at the station, next takes it out.
func (h *podHeap) peek(at station) *waiting {
	for len(h.items) > 0 && h.items[0].at != at {
		heap.Pop(h)
	}
	if len(h.items) == 0 {
		return nil
	}
	return h.items[0]
}

func (h *podHeap) next(at station) *waiting {
	if h.peek(at) == nil {
		return nil
	}
	return heap.Pop(h).(*waiting)
}
