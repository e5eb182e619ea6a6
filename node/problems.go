package node

import (
	"cmp"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	problemLife   = 2 * time.Minute  // a problem that was not seen for this long is over
	problemRepeat = 10 * time.Minute // one that goes on is logged this often
	problemChange = 30 * time.Second // one whose words change, this often at most
	maxProblems   = 64
)

// problems are what a node has to say to its operator: things that go wrong again
// and again, each logged rarely and shown in the status for as long as it goes on.
type problems struct {
	log *slog.Logger
	now func() time.Time

	mu  sync.Mutex // protects all
	all map[string]*problem
}

type problem struct {
	text               string
	since, last, spoke time.Time
}

func newProblems(log *slog.Logger) *problems {
	return &problems{log: log, now: time.Now, all: map[string]*problem{}}
}

// report tells of a problem, in a sentence that says what to do. Problems with one
// key are one.
func (p *problems) report(key, text string) {
	if p.note(key, text) {
		p.log.Warn(text, "problem", key)
	}
}

// note is report for what somebody else logs. It returns whether it is time to.
func (p *problems) note(key, text string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	p.expireLocked(now)
	known := p.all[key]
	if known == nil {
		if len(p.all) >= maxProblems {
			return false
		}
		known = &problem{since: now}
		p.all[key] = known
	}
	silent := now.Sub(known.spoke)
	due := silent >= problemRepeat || known.text != text && silent >= problemChange
	known.text, known.last = text, now
	if due {
		known.spoke = now
	}
	return due
}

// solved ends a problem before its time.
func (p *problems) solved(key string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.all, key)
}

// solvedAll ends the problems whose keys begin with prefix.
func (p *problems) solvedAll(prefix string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.all, func(key string, _ *problem) bool { return strings.HasPrefix(key, prefix) })
}

// list returns the problems of now, the oldest first.
func (p *problems) list() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expireLocked(p.now())
	var out []string
	for _, key := range slices.SortedFunc(maps.Keys(p.all), func(a, b string) int {
		return cmp.Or(p.all[a].since.Compare(p.all[b].since), cmp.Compare(a, b))
	}) {
		out = append(out, p.all[key].text)
	}
	return out
}

func (p *problems) expireLocked(now time.Time) {
	maps.DeleteFunc(p.all, func(_ string, known *problem) bool { return now.Sub(known.last) > problemLife })
}
