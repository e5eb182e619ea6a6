package report

import (
	"slices"
	"time"

	"kontiki/jepsen/check"
	"kontiki/jepsen/history"
)

// series is a history as a picture needs it.
type series struct {
	events  []history.Event
	ops     []history.Op
	byCall  map[int64]history.Op
	nodes   []string
	length  time.Duration
	bands   []band
	answers []answer
}

// band is a fault: from when to when it lasted, and when all was well again.
type band struct {
	kind, whom      string
	from, to, whole time.Duration
}

// answer is the end of a call.
type answer struct {
	node     string
	at, took time.Duration
	outcome  check.Outcome
}

// lasting are calls whose length says nothing of the cluster.
var lasting = []string{"watch"}

func newSeries(events []history.Event) *series {
	s := &series{events: events, ops: history.Ops(events), byCall: make(map[int64]history.Op)}
	if len(events) > 0 {
		s.length = time.Duration(events[len(events)-1].Time)
	}
	s.length = max(s.length, time.Second)
	for _, op := range s.ops {
		s.byCall[op.Call.Index] = op
		if op.Call.Fault() {
			s.fault(op)
			continue
		}
		if op.Call.Node != "" && !slices.Contains(s.nodes, op.Call.Node) {
			s.nodes = append(s.nodes, op.Call.Node)
		}
		if op.Return.Type != "" && !slices.Contains(lasting, op.Call.F) {
			s.answers = append(s.answers, answer{op.Call.Node, time.Duration(op.Return.Time), op.Duration(), op.Outcome()})
		}
	}
	slices.Sort(s.nodes)
	slices.SortStableFunc(s.answers, func(a, b answer) int { return int(a.at - b.at) })
	return s
}

// fault takes a fault into the bands, or the word that all is well again.
func (s *series) fault(op history.Op) {
	end := s.length
	if op.Return.Type != "" {
		end = time.Duration(op.Return.Time)
	}
	if op.Call.F != history.Whole {
		s.bands = append(s.bands, band{kind: op.Call.F, whom: op.Return.Key, from: time.Duration(op.Call.Time), to: end})
		return
	}
	for i := range s.bands {
		if s.bands[i].whole == 0 && s.bands[i].to <= end {
			s.bands[i].whole = end
		}
	}
}

// event finds an event by its place.
func (s *series) event(place int64) (history.Event, bool) {
	if place < 1 || place > int64(len(s.events)) {
		return history.Event{}, false
	}
	return s.events[place-1], true
}

// faultsAt are the faults that lasted at a moment, in words.
func (s *series) faultsAt(at time.Duration) (words []string) {
	for _, b := range s.bands {
		switch {
		case b.from <= at && at <= b.to:
			words = append(words, "during "+b.kind+" "+b.whom)
		case b.to < at && at <= b.whole:
			words = append(words, "after "+b.kind+" "+b.whom)
		}
	}
	return words
}

// bucket is a part of the time, of one node.
type bucket struct {
	answered, failed, unknown int
	median, p95, slowest      time.Duration
}

// buckets are a node's answers in parts of the time of equal length.
func (s *series) buckets(node string, width time.Duration) []bucket {
	n := int(s.length/width) + 1
	all := make([]bucket, n)
	took := make([][]time.Duration, n)
	for _, a := range s.answers {
		if a.node != node {
			continue
		}
		b := &all[min(n-1, int(a.at/width))]
		switch a.outcome {
		case check.OK:
			b.answered++
			took[min(n-1, int(a.at/width))] = append(took[min(n-1, int(a.at/width))], a.took)
		case check.Failed:
			b.failed++
		default:
			b.unknown++
		}
	}
	for i, d := range took {
		if len(d) == 0 {
			continue
		}
		slices.Sort(d)
		all[i].median, all[i].p95, all[i].slowest = quantile(d, 0.5), quantile(d, 0.95), d[len(d)-1]
	}
	return all
}
