package raftstore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"kontiki/jepsen/check"
)

// simHistory is what a schedule is judged by.
type simHistory struct {
	began  time.Time
	moment atomic.Int64 // counts calls and returns

	mu        sync.Mutex
	notes     simNotes
	txns      []check.Txn
	reads     []check.Point            // linearizable
	locals    map[string][]check.Point // by process
	seen      []check.Seen
	registers []check.RegisterOp
	adds      []check.Add
	grants    []check.Grant
	watched   []*check.Watch
	told      map[uint64]time.Time // when a watch was first told of a revision
	held      map[string]uint64    // elements of the set at the end
	terms     map[uint64]string    // who led in a term
	finished  time.Time
	anomalies []check.Anomaly // found while it ran
	counts    map[string]int
}

func newSimHistory() *simHistory {
	return &simHistory{began: time.Now(), locals: make(map[string][]check.Point), told: make(map[uint64]time.Time),
		terms: make(map[uint64]string), counts: make(map[string]int)}
}

// simNotes keeps what happened, and what nodes log, as lines.
type simNotes struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (n *simNotes) Write(b []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.b.Write(b)
}

func (h *simHistory) notef(format string, args ...any) {
	fmt.Fprintf(&h.notes, "%9.3fs %s\n", time.Since(h.began).Seconds(), fmt.Sprintf(format, args...))
}

func (h *simHistory) count(what string, n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.counts[what] += n
}

// found notes what is wrong without any checker.
func (h *simHistory) found(kind, format string, args ...any) {
	a := check.Anomaly{Kind: kind, Text: fmt.Sprintf(format, args...)}
	h.notef("ANOMALY %s", a)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.anomalies = append(h.anomalies, a)
}

func entryOf(kv *KV) check.Entry {
	if kv == nil {
		return check.Entry{}
	}
	return check.Entry{Value: string(kv.Value), Create: kv.CreateRevision, Mod: kv.ModRevision, Version: kv.Version}
}

// changeOf is an event as the checkers want it. Of a delete, a create revision is what
// its key had.
func changeOf(e Event) check.Change {
	c := check.Change{Key: e.KV.Key, Deleted: e.Deleted, Now: entryOf(&e.KV), Prev: entryOf(e.Prev)}
	return c
}

func listOf(v View, prefix string) map[string]check.Entry {
	list := make(map[string]check.Entry)
	v.Range(prefix, PrefixEnd(prefix), 0, func(kv KV) bool {
		list[kv.Key] = entryOf(&kv)
		return true
	})
	return list
}

// follow watches a process for as long as it runs: all that it is told, what one who
// is slow is told, and whether it leads.
func (c *simCluster) follow(p *simProcess) {
	c.watches.Go(func() { c.leads(p) })
	c.watches.Go(func() { c.watch(p, "", 0, true) })
	c.watches.Go(func() { c.watch(p, "acct/", 0, false) })
	c.watches.Go(func() { c.watch(p, "reg/", 300*time.Millisecond, false) })
}

func (c *simCluster) leads(p *simProcess) {
	news, stop := p.store.WatchLeadership()
	defer stop()
	for {
		select {
		case l := <-news:
			if l.Self && p.alive() {
				c.led(p, l.Term)
			}
		case <-p.dead:
			return
		case <-c.life.Done():
			return
		}
	}
}

func (c *simCluster) led(p *simProcess, term uint64) {
	c.mu.Lock()
	other, known := c.terms[term]
	c.terms[term] = p.name
	c.mu.Unlock()
	if known && other != p.name {
		c.found("two leaders", "%s and %s in term %d", other, p.name, term)
	}
}

// watch lists and watches, again when it falls off. From the beginning of history, it
// is told also what a start took from the disk.
func (c *simCluster) watch(p *simProcess, prefix string, slow time.Duration, fromFloor bool) {
	for p.alive() && c.life.Err() == nil {
		v := p.store.View()
		if fromFloor {
			var err error
			if v, err = p.store.ViewAt(c.life, p.store.Compacted()); err != nil {
				if errors.Is(err, ErrCompacted) {
					continue
				}
				return
			}
		}
		w, err := p.store.Watch(prefix, v.Revision())
		if errors.Is(err, ErrCompacted) {
			continue
		}
		if err != nil {
			return
		}
		record := &check.Watch{What: fmt.Sprintf("%s, watch of %q after %d", p.name, prefix, v.Revision()), Prefix: prefix,
			From: v.Revision(), Through: v.Revision(), Start: listOf(v, prefix)}
		c.mu.Lock()
		c.watched = append(c.watched, record)
		c.mu.Unlock()
		err = c.listen(p, w, record, slow)
		w.Close()
		if !errors.Is(err, ErrCompacted) {
			return
		}
		c.count("watches that fell off", 1)
	}
}

func (c *simCluster) listen(p *simProcess, w *Watch, record *check.Watch, slow time.Duration) error {
	for {
		events, through, err := w.Next(c.life)
		if !p.alive() {
			return nil
		}
		if err != nil {
			if v := p.store.View(); v.Revision() == record.Through {
				record.End = listOf(v, record.Prefix)
			}
			return err
		}
		now := time.Now()
		c.mu.Lock()
		for _, e := range events {
			record.Told = append(record.Told, changeOf(e))
			if _, ok := c.told[e.Revision()]; !ok {
				c.told[e.Revision()] = now
			}
		}
		record.Through = through
		c.counts["events"] += len(events)
		c.mu.Unlock()
		if slow > 0 {
			select {
			case <-time.After(slow):
			case <-p.dead:
			case <-c.life.Done():
			}
		}
	}
}

// compare takes the end of all replicas, which must not differ in anything.
func (c *simCluster) compare(members []*simProcess) {
	sums := make(map[string][]string)
	for _, p := range members {
		st := *p.store.fsm.current.Load()
		var b bytes.Buffer
		if err := writeSnapshot(&b, &st); err != nil {
			c.found("does not recover", "%s: %v", p.name, err)
		}
		sum := fmt.Sprintf("%08x at index %d, revision %d", crc32.Checksum(b.Bytes(), castagnoli), st.index, st.revision)
		sums[sum] = append(sums[sum], p.name)
		if err := p.store.err(); err != nil {
			c.found("does not recover", "%s: %v", p.name, err)
		}
		v := st.view()
		if c.held == nil {
			c.held = make(map[string]uint64)
			for key, e := range listOf(v, "set/") {
				c.held[key] = e.Version
			}
		}
	}
	if len(sums) > 1 {
		c.found("replicas differ", "%v", sums)
	}
}

// judge runs every checker. It is called outside of the bubble: a search has a limit
// in real time.
func (h *simHistory) judge() []check.Anomaly {
	found := h.anomalies
	add := func(more []check.Anomaly) { found = append(found, more...) }
	var told [][]check.Change
	var watches []check.Watch
	for _, w := range h.watched {
		told = append(told, w.Told)
		watches = append(watches, *w)
	}
	log, bad := check.NewLog(firstRevision, told...)
	add(bad)
	bad, points := check.Txns(log, h.txns, "ttl/")
	add(bad)
	add(check.RealTime(append(points, h.reads...)))
	for _, process := range slices.Sorted(maps.Keys(h.locals)) {
		add(check.RealTime(h.locals[process]))
	}
	add(check.Views(log, h.seen))
	add(check.Watches(log, watches))
	add(check.Set(h.adds, h.held))
	add(check.Registers(h.registers, 30*time.Second))
	add(check.Leases(log, "ttl/", h.grants, h.told, 2*simClockMost*time.Millisecond, h.finished, simTTLGrace))
	return found
}

// keep writes a schedule and what came of it into a directory, and returns that.
func (h *simHistory) keep(plan *simPlan, anomalies []check.Anomaly) (string, error) {
	dir := os.Getenv("KONTIKI_HISTORIES")
	if dir == "" {
		dir = filepath.Join(os.TempDir(), "kontiki-histories")
	}
	dir = filepath.Join(dir, fmt.Sprintf("seed-%d", plan.Seed))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	var text bytes.Buffer
	for _, a := range anomalies {
		fmt.Fprintln(&text, a)
	}
	history, err := json.MarshalIndent(map[string]any{
		"txns": h.txns, "reads": h.reads, "locals": h.locals, "seen": h.seen, "registers": h.registers,
		"adds": h.adds, "grants": h.grants, "watches": h.watched, "terms": h.terms, "counts": h.counts,
	}, "", " ")
	for name, b := range map[string][]byte{"schedule": []byte(plan.String()), "anomalies": text.Bytes(), "notes": h.notes.b.Bytes(), "history.json": history} {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), b, 0o644))
	}
	return dir, err
}

// simOutcome says what a call that returned err did, if its process is alive.
func simOutcome(p *simProcess, err error) check.Outcome {
	switch {
	case !p.alive():
		return check.Unknown
	case err == nil:
		return check.OK
	case errors.Is(err, ErrOutcomeUnknown):
		return check.Unknown
	}
	return check.Failed
}

func (c *simCluster) within(limit time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), limit)
}
