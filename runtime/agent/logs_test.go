package agent_test

import (
	"bufio"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"kontiki/runtime/shim/shimtest"
)

// TestLogsAsTheyAreAskedFor: of what a container has said, one gets what one asks for; what makes no sense is refused.
func TestLogsAsTheyAreAskedFor(t *testing.T) {
	l := newLab(t)
	l.pod("say", func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever }, "say", "hello")
	l.wait("say", "to succeed", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded })
	shimtest.Eventually(t, "all that it said", func() bool { return strings.Count(l.logs("say/c"), "\n") == 2 })
	for query, want := range map[string]struct {
		code int
		body string
	}{
		"say/c?stream=Stdout": {200, "out hello\n"}, "say/c?stream=Stderr": {200, "err hello\n"},
		"say/c?stream=Stdout&limitBytes=3": {200, "out"}, "say/c?tailLines=0": {200, ""},
		"say/c?sinceTime=2999-01-01T00:00:00Z": {200, ""}, "say/c?stream=Stdout&sinceTime=2001-01-01T00:00:00Z": {200, "out hello\n"},
		"say/c?stream=Stdout&sinceSeconds=100000": {200, "out hello\n"}, "say/c?stream=Stdout&follow=true": {200, "out hello\n"},
		"say/c?previous=true":  {400, "previous terminated container \"c\" in pod \"say\" not found\n"},
		"say/x":                {400, "container \"x\" is not valid for pod \"say\"\n"},
		"absent/c":             {404, "pod \"absent\" does not exist\n"},
		"say/c?tailLines=-1":   {400, "query parameter tailLines: \"-1\" is not a number of at least 0\n"},
		"say/c?limitBytes=0":   {400, "query parameter limitBytes: \"0\" is not a number of at least 1\n"},
		"say/c?sinceSeconds=x": {400, "query parameter sinceSeconds: \"x\" is not a number of at least 1\n"},
		"say/c?sinceTime=now":  {400, "query parameter sinceTime: \"now\" is not a time like 2006-01-02T15:04:05Z\n"},
		"say/c?follow=perhaps": {400, "query parameter follow: \"perhaps\" is not a boolean\n"},
		"say/c?stream=Both":    {400, "query parameter stream: \"Both\" is none of All, Stdout, Stderr\n"},
	} {
		if code, body := l.get("/containerLogs/default/" + query); code != want.code || body != want.body {
			t.Errorf("%s: %d %q, want %d %q", query, code, body, want.code, want.body)
		}
	}
	l.delete("say", 1)
	l.clean()
}

// TestLogsOfAttempts: one who follows sees a line as it is said, and the end; what the attempt before has said can be asked for.
func TestLogsOfAttempts(t *testing.T) {
	l := newLab(t)
	l.pod("tick", nil, "tick")
	l.wait("tick", "to be ready", ready)
	server := httptest.NewServer(l.agent.Handler())
	defer server.Close()
	resp, err := http.Get(server.URL + "/containerLogs/default/tick/c?follow=true")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	following := bufio.NewReader(resp.Body)
	for _, want := range []string{"tick 0\n", "tick 1\n", "tick 2\n"} {
		if got, err := following.ReadString('\n'); err != nil || got != want {
			t.Fatalf("a follower gets %q, %v, want %q", got, err, want)
		}
	}
	if err := l.env.Client.Signal(l.env.Context(), "uid-tick.c.0", unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(following); err != nil || !strings.HasPrefix(string(rest), "tick 3\n") {
		t.Errorf("a follower gets %.50q at the end, %v", rest, err)
	}
	l.wait("tick", "to run again", func(p *corev1.Pod) bool { return ready(p) && p.Status.ContainerStatuses[0].RestartCount == 1 })
	first := func(query string) (said string, at time.Time) {
		t.Helper()
		shimtest.Eventually(t, "a log that begins", func() bool {
			var when string
			when, said, _ = strings.Cut(l.logs("tick/c?timestamps=true&limitBytes=60"+query), " ")
			at, err = time.Parse(time.RFC3339Nano, when)
			return err == nil
		})
		said, _, _ = strings.Cut(said, "\n")
		return said, at
	}
	before, then := first("&previous=true")
	now, later := first("")
	if before != "tick 0" || now != "tick 0" || !then.Before(later) {
		t.Errorf("the attempt before began with %q at %v, this one with %q at %v", before, then, now, later)
	}
	l.delete("tick", 1)
	l.clean()
}
