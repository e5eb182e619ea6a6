package history_test

import (
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"kontiki/jepsen/check"
	"kontiki/jepsen/history"
)

func TestRecordedIsRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.jsonl")
	r, err := history.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	var clients sync.WaitGroup
	for process := range 4 {
		clients.Go(func() {
			for range 100 {
				r.Record(history.Event{Type: history.Invoke, Process: process, Node: "n1", F: "read", Key: "a"})
				r.Record(history.Event{Type: history.OK, Process: process, Node: "n1", F: "read", Key: "a", Value: "v", Revision: 7,
					Items: []history.Item{{Key: "a", Value: "v", Revision: 7}}})
			}
		})
	}
	clients.Wait()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	events, err := history.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	want := r.Events()
	if len(events) != 800 || len(want) != 800 {
		t.Fatalf("%d events were read, %d recorded", len(events), len(want))
	}
	for i := range want {
		if !reflect.DeepEqual(events[i], want[i]) || i > 0 && events[i].Time < events[i-1].Time {
			t.Fatalf("event %d is %+v, and was %+v", i, events[i], want[i])
		}
	}
	for _, op := range history.Ops(events) {
		if op.Outcome() != check.OK || op.Span().Return <= op.Span().Call {
			t.Fatalf("%+v", op)
		}
	}
}

func TestReadRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"a line that was left out": `{"index":1,"type":"invoke","f":"read"}` + "\n" + `{"index":3,"type":"ok","f":"read"}`,
		"half a line":              `{"index":1,"ty`,
		"what it does not know":    `{"index":1,"type":"invoke","f":"read","colour":"red"}`,
	} {
		if events, err := history.Read(strings.NewReader(text)); err == nil {
			t.Errorf("%s: read as %+v", name, events)
		}
	}
}

func TestOps(t *testing.T) {
	events := []history.Event{
		{Index: 1, Type: history.Invoke, Process: 1, F: "watch"},
		{Index: 2, Type: history.Invoke, Process: 2, F: "create", Key: "a"},
		{Index: 3, Type: history.Info, Process: 1, F: "told", Key: "a"},
		{Index: 4, Type: history.Fail, Process: 2, F: "create", Error: "no quorum"},
		{Index: 5, Type: history.Invoke, Process: 2, F: "create", Key: "b"},
		{Index: 6, Type: history.Info, Process: 2, F: "create", Error: "timeout"},
		{Index: 7, Type: history.OK, Process: 1, F: "watch"},
		{Index: 8, Type: history.Invoke, Process: 3, F: "read"},
	}
	var outcomes []check.Outcome
	for _, op := range history.Ops(events) {
		outcomes = append(outcomes, op.Outcome())
	}
	want := []check.Outcome{check.OK, check.Failed, check.Unknown, check.Unknown}
	for i := range want {
		if len(outcomes) != len(want) || outcomes[i] != want[i] {
			t.Fatalf("outcomes %v, want %v", outcomes, want)
		}
	}
}

func TestLives(t *testing.T) {
	lives := history.LivesOf([]history.Event{
		{Index: 10, Process: -1, Type: history.Info, F: history.Ending, Node: "n1"},
		{Index: 12, Process: -1, Type: history.Info, F: history.Ended, Node: "n1"},
		{Index: 20, Process: -2, Type: history.Info, F: history.Ending, Node: "n1"},
	})
	for name, c := range map[string]struct {
		node      string
		call, ret int64
		life      int
		certain   bool
	}{
		"before":                  {"n1", 1, 9, 0, true},
		"around the end":          {"n1", 9, 13, 0, false},
		"sent while it ends":      {"n1", 11, 14, 0, false},
		"after":                   {"n1", 13, 14, 1, true},
		"an end that is not over": {"n1", 21, 22, 0, false},
		"of another node":         {"n2", 9, 13, 0, true},
	} {
		op := history.Op{Call: history.Event{Index: c.call, Node: c.node}, Return: history.Event{Index: c.ret}}
		if life, ok := lives.Of(op); life != c.life || ok != c.certain {
			t.Errorf("%s: life %d, %v", name, life, ok)
		}
	}
}
