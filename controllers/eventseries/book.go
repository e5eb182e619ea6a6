package eventseries

import (
	"container/list"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// finishTime after the last of a series, it is over; the next event is one of its
	// own. refreshTime is how often a series that goes on is written. Upstream's times.
	finishTime  = 6 * time.Minute
	refreshTime = 30 * time.Minute
)

// key is what makes two events one series: all but what they say and when. Upstream's.
type key struct {
	kind, action, reason, controller string
	regarding, related               corev1.ObjectReference
}

// series is what was told under one key, once or more often. The book owns it.
type series struct {
	key     key
	event   *eventsv1.Event // as the first was told; never changed
	count   int32
	last    time.Time
	created bool
	told    int32 // count that is written
	written time.Time

	due     bool // waits to be written
	writing bool
	place   *list.Element // in the book's order
}

// write is one call to make. of is who to settle it with.
type write struct {
	of     *series
	event  *eventsv1.Event
	create bool
}

// book remembers what was told, as much as limit allows. It is pure: times are given,
// its owner locks and writes.
type book struct {
	limit int
	all   map[key]*series
	order *list.List // of *series, the one that was told of longest ago first
	due   *list.List // of *series
}

func newBook(limit int) *book {
	return &book{limit: limit, all: map[key]*series{}, order: list.New(), due: list.New()}
}

// tell takes an event in; false if there is no room for it, since so many wait to be
// written already.
func (b *book) tell(k key, now time.Time, event func() *eventsv1.Event) bool {
	s := b.all[k]
	if s != nil && !s.due && !s.writing && s.count == s.told && now.Sub(s.last) > finishTime {
		b.forget(s)
		s = nil
	}
	if s != nil {
		s.count++
		s.last = now
		b.order.MoveToBack(s.place)
		if s.told < 2 { // further ones are written at times
			b.queue(s)
		}
		return true
	}
	if len(b.all) >= b.limit && !b.makeRoom() {
		return false
	}
	s = &series{key: k, event: event(), count: 1, last: now}
	s.place = b.order.PushBack(s)
	b.all[k] = s
	b.queue(s)
	return true
}

// queue has s written, once. What is being written is looked at again afterwards.
func (b *book) queue(s *series) {
	if !s.due && !s.writing {
		s.due = true
		b.due.PushBack(s)
	}
}

// makeRoom forgets what was told of longest ago, of what does not wait to be written.
// It looks at a few only: where these all wait, nearly everything does.
func (b *book) makeRoom() bool {
	e := b.order.Front()
	for range 16 {
		if e == nil {
			break
		}
		if s := e.Value.(*series); !s.due && !s.writing {
			b.forget(s)
			return true
		}
		e = e.Next()
	}
	return false
}

func (b *book) forget(s *series) {
	b.order.Remove(s.place)
	delete(b.all, s.key)
}

// next is the write that waits longest; its of is nil if there is none.
func (b *book) next() (w write) {
	e := b.due.Front()
	if e == nil {
		return w
	}
	s := b.due.Remove(e).(*series)
	s.due, s.writing = false, true
	w = write{of: s, create: !s.created, event: s.event.DeepCopy()}
	if s.count > 1 {
		w.event.Series = &eventsv1.EventSeries{Count: s.count, LastObservedTime: metav1.NewMicroTime(s.last)}
	}
	return w
}

// settle says what became of a write. What is refused is forgotten: the next such event
// is tried anew.
func (b *book) settle(w write, ok bool, now time.Time) {
	s := w.of
	s.writing = false
	if !ok {
		b.forget(s)
		return
	}
	s.created, s.written, s.told = true, now, 1
	if w.event.Series != nil {
		s.told = w.event.Series.Count
	}
	if s.told < 2 && s.count > s.told {
		b.queue(s)
	}
}

// sweep has series written that are over or go on for long, and forgets what is over.
func (b *book) sweep(now time.Time) {
	var next *list.Element
	for e := b.order.Front(); e != nil; e = next {
		next = e.Next()
		s := e.Value.(*series)
		over := now.Sub(s.last) > finishTime
		switch {
		case s.due || s.writing:
		case s.count > s.told && (over || now.Sub(s.written) >= refreshTime):
			b.queue(s)
		case over:
			b.forget(s)
		}
	}
}
