package scheduler

import (
	"cmp"
	"container/heap"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	schedulinghelper "k8s.io/component-helpers/scheduling/corev1"
)

// event is a set of things that happen in a cluster and may help a waiting pod.
type event uint

const (
	nodeAdded event = 1 << iota
	nodeTaintsChanged
	nodeLabelsChanged
	nodeAllocatableChanged
	podAdded // on a node
	podGone  // from a node
)

// Upstream's podInitialBackoffSeconds, podMaxBackoffSeconds, and the time after
// which an unschedulable pod is tried again without any event.
const (
	firstBackoff  = time.Second
	longestWait   = 10 * time.Second
	unheardRetry  = 5 * time.Minute
	maxBatch      = 256
	foreverAsleep = time.Duration(1<<63 - 1)
)

type station int

const (
	active station = iota
	backingOff
	unschedulable
	inFlight
	gone
)

// waiting is a pod in the queue.
type waiting struct {
	pod      *corev1.Pod
	at       station
	attempts int
	since    time.Time // added
	tried    time.Time // last attempt
	helps    event     // what would move it out of unschedulable
	touched  bool      // changed by a user while it was in flight
	until    time.Time // end of back-off
}

// queue holds the pods that wait for a node. Time is passed in. It is not safe
// for concurrent use.
type queue struct {
	pods    map[types.UID]*waiting
	parked  map[types.UID]*waiting // those of pods that are unschedulable
	active  podHeap
	backoff podHeap
	heard   event // what happened since the last pop
}

func newQueue() *queue {
	return &queue{
		pods:   map[types.UID]*waiting{},
		parked: map[types.UID]*waiting{},
		active: podHeap{less: func(a, b *waiting) bool {
			return cmp.Or(
				cmp.Compare(schedulinghelper.PodPriority(b.pod), schedulinghelper.PodPriority(a.pod)),
				a.since.Compare(b.since)) < 0
		}},
		backoff: podHeap{less: func(a, b *waiting) bool { return a.until.Before(b.until) }},
	}
}

// set adds a pod or takes its new version; a changed unschedulable pod is tried again.
func (q *queue) set(pod *corev1.Pod, specChanged bool, now time.Time) {
	w, ok := q.pods[pod.UID]
	if !ok {
		w = &waiting{pod: pod, since: now}
		q.pods[pod.UID] = w
		q.activate(w)
		return
	}
	w.pod = pod
	if specChanged {
		if w.at == unschedulable {
			q.retry(w, now)
		}
		w.touched = true
	}
}

// remove drops a pod that was deleted or bound.
func (q *queue) remove(uid types.UID) {
	if w, ok := q.pods[uid]; ok {
		w.at = gone // heaps drop it when they meet it
		delete(q.pods, uid)
		delete(q.parked, uid)
	}
}

// pop takes up to max pods to be planned, most important first.
func (q *queue) pop(max int, now time.Time) []*waiting {
	q.wake(now)
	q.heard = 0
	var batch []*waiting
	for len(batch) < max && q.active.Len() > 0 {
		w := heap.Pop(&q.active).(*waiting)
		if w.at != active {
			continue
		}
		w.at, w.touched, w.tried = inFlight, false, now
		w.attempts++
		batch = append(batch, w)
	}
	return batch
}

// failed puts a pod that was popped aside until something in helps happens. An
// attempt that failed for another reason (helps 0) is repeated after back-off.
func (q *queue) failed(uid types.UID, helps event, now time.Time) {
	w, ok := q.pods[uid]
	if !ok || w.at != inFlight {
		return
	}
	w.helps = helps
	if helps == 0 || w.touched || q.heard&helps != 0 {
		q.retry(w, now)
		return
	}
	w.at = unschedulable
	q.parked[uid] = w
}

// happened moves the pods that e may help.
func (q *queue) happened(e event, now time.Time) {
	q.heard |= e
	for _, w := range q.parked {
		if w.helps&e != 0 {
			q.retry(w, now)
		}
	}
}

// sleep is how long nothing will become active by itself; 0 if something is.
func (q *queue) sleep(now time.Time) time.Duration {
	q.wake(now)
	for q.active.Len() > 0 && q.active.items[0].at != active {
		heap.Pop(&q.active)
	}
	if q.active.Len() > 0 {
		return 0
	}
	next := foreverAsleep
	if q.backoff.Len() > 0 {
		next = q.backoff.items[0].until.Sub(now)
	}
	for _, w := range q.parked {
		next = min(next, w.tried.Add(unheardRetry).Sub(now))
	}
	return max(next, time.Millisecond)
}

func (q *queue) wake(now time.Time) {
	for q.backoff.Len() > 0 && (q.backoff.items[0].at != backingOff || !q.backoff.items[0].until.After(now)) {
		if w := heap.Pop(&q.backoff).(*waiting); w.at == backingOff {
			q.activate(w)
		}
	}
	for _, w := range q.parked {
		if !w.tried.Add(unheardRetry).After(now) {
			q.activate(w)
		}
	}
}

func (q *queue) retry(w *waiting, now time.Time) {
	delete(q.parked, w.pod.UID)
	wait := longestWait
	if w.attempts < 5 {
		wait = min(longestWait, firstBackoff<<max(0, w.attempts-1))
	}
	w.until = w.tried.Add(wait)
	if !w.until.After(now) {
		q.activate(w)
		return
	}
	w.at = backingOff
	heap.Push(&q.backoff, w)
}

func (q *queue) activate(w *waiting) {
	delete(q.parked, w.pod.UID)
	w.at = active
	heap.Push(&q.active, w)
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
