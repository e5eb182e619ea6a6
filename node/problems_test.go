package node

import (
	"bytes"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"kontiki/gossip"
	"kontiki/raftstore"
)

func TestProblemsDoNotFloodTheLog(t *testing.T) {
	var log bytes.Buffer
	p := newProblems(slog.New(slog.NewTextHandler(&log, nil)))
	now := time.Unix(0, 0)
	p.now = func() time.Time { return now }
	for i := range 3600 { // an hour of refusals, each in other words
		p.report("secret/10.0.0.1", fmt.Sprintf("no, for the %dth time", i))
		now = now.Add(time.Second)
	}
	if n := strings.Count(log.String(), "\n"); n > 121 {
		t.Errorf("an hour of one problem logged %d lines", n)
	}
	log.Reset()
	for range 3600 {
		p.report("cluster/x", "the same")
		now = now.Add(time.Second)
	}
	if n := strings.Count(log.String(), "\n"); n != 6 {
		t.Errorf("an hour of one problem in the same words logged %d lines, want 6", n)
	}
	if got := p.list(); !slices.Equal(got, []string{"the same"}) {
		t.Errorf("problems are %q, want the one that goes on", got)
	}
	p.solved("cluster/x")
	if got := p.list(); len(got) != 0 {
		t.Errorf("problems are %q after they were solved", got)
	}
	for i := range 1000 {
		p.report(fmt.Sprint(i), "many")
	}
	if got := len(p.list()); got != maxProblems {
		t.Errorf("%d problems are kept, want %d", got, maxProblems)
	}
}

func TestDiagnosis(t *testing.T) {
	member := func(id, role string, health gossip.State) Member {
		return Member{ID: id, Name: "n" + id, Role: role, Health: string(health)}
	}
	healthy := Status{ID: "1", Leader: "1", Members: []Member{member("1", "voter", gossip.StateAlive), member("2", "voter", gossip.StateAlive), member("3", "voter", gossip.StateAlive)}}
	if got := diagnose(healthy, raftstore.Status{}); len(got) != 0 {
		t.Errorf("a healthy cluster: %q", got)
	}
	for want, change := range map[string]func(*Status, *raftstore.Status){
		"does not answer: n3": func(s *Status, _ *raftstore.Status) { s.Members[2].Health = string(gossip.StateDead) },
		"1 of 3 voters answer, 2 are needed": func(s *Status, _ *raftstore.Status) {
			s.Members[1].Health, s.Members[2].Health = string(gossip.StateDead), string(gossip.StateLeft)
		},
		"no leader is known":       func(s *Status, _ *raftstore.Status) { s.Leader = "" },
		"not among the members":    func(s *Status, _ *raftstore.Status) { s.ID = "4" },
		"cannot write to its disk": func(_ *Status, r *raftstore.Status) { r.DiskFailing = true },
		"does not work":            func(_ *Status, r *raftstore.Status) { r.Err = raftstore.ErrHalted },
	} {
		s, r := healthy, raftstore.Status{}
		s.Members = slices.Clone(healthy.Members)
		change(&s, &r)
		if got := strings.Join(diagnose(s, r), "\n"); !strings.Contains(got, want) {
			t.Errorf("got %q, want a word of %q", got, want)
		}
	}
}
