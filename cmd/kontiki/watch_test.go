package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"kontiki/node"
)

// watched runs a watch over some looks, the last of which ends it.
func watched(t *testing.T, s screen, output string, looks ...func() (node.Status, error)) error {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	n := 0
	return watchStatus(ctx, s, func() (node.Status, error) {
		if n == len(looks) {
			cancel()
			return node.Status{}, context.Canceled
		}
		n++
		return looks[n-1]()
	}, time.Microsecond, output)
}

func says(name string, revision uint64) func() (node.Status, error) {
	at := time.Unix(int64(revision), 0)
	return func() (node.Status, error) {
		return node.Status{Name: name, ID: "a", Phase: "running", Revision: revision, Members: []node.Member{{ID: "a", LastContact: &at, AppliedRevision: revision}}}, nil
	}
}

func silent() (node.Status, error) {
	return node.Status{}, fmt.Errorf("%w on /x", errNoAnswer)
}

// TestWatchIntoAPipe: what has not changed but for times and revisions is said once.
func TestWatchIntoAPipe(t *testing.T) {
	var out bytes.Buffer
	err := watched(t, screen{out: &out}, "", says("n1", 1), says("n1", 2), silent, silent, says("n1", 3), says("n2", 4))
	if err != nil {
		t.Fatal(err)
	}
	want := "Node     n1 (a), running\n\nno node answers on /x; it is asked again every 1µs\n\nNode     n1 (a), running\n\nNode     n2 (a), running\n"
	if out.String() != want {
		t.Errorf("%q\nwant %q", out.String(), want)
	}
	out.Reset()
	if err := watched(t, screen{out: &out}, "json", says("n1", 1), silent, says("n1", 2), says("n2", 3)); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(out.String(), `"name": "n`); got != 2 || strings.Contains(out.String(), "answers") {
		t.Errorf("%d statuses:\n%s", got, out.String())
	}
}

// TestWatchOnATerminal: it is drawn in place, and the page is left as it was found.
func TestWatchOnATerminal(t *testing.T) {
	var out bytes.Buffer
	s := screen{&out, func() (int, int) { return 80, 24 }}
	if err := watched(t, s, "", says("n1", 1), says("n1", 2), silent); err != nil {
		t.Fatal(err)
	}
	got := out.String()
	if !strings.HasPrefix(got, enterScreen) || strings.Count(got, topLeft) != 3 {
		t.Errorf("not drawn three times: %q", got)
	}
	if want := leaveScreen + "no node answers on /x; it is asked again every 1µs\n"; !strings.HasSuffix(got, want) {
		t.Errorf("it ends with %q, want %q", got[max(0, len(got)-100):], want)
	}
	out.Reset()
	refused := errors.New("refused")
	if err := watched(t, s, "", func() (node.Status, error) { return node.Status{}, refused }); !errors.Is(err, refused) {
		t.Errorf("%v", err)
	}
	if !strings.HasSuffix(out.String(), leaveScreen) {
		t.Errorf("after an error the terminal is left at %q", out.String())
	}
}

func TestPage(t *testing.T) {
	for _, test := range []struct {
		text          string
		columns, rows int
		want          string
	}{
		{"a\nb\n", 80, 24, topLeft + "a" + clearLine + "\r\nb" + clearLine + clearBelow},
		{"äöü\n", 2, 24, topLeft + "ä…" + clearLine + clearBelow},
		{"a\nb\nc\nd\n", 80, 3, topLeft + "a" + clearLine + "\r\nb" + clearLine + "\r\n… 2 more lines" + clearLine + clearBelow},
		{"a\nb\n", 80, 1, topLeft + "… 2 more lines" + clearLine + clearBelow},
	} {
		if got := page(test.text, test.columns, test.rows); got != test.want {
			t.Errorf("%q in %d×%d: %q, want %q", test.text, test.columns, test.rows, got, test.want)
		}
	}
}

func TestStatusForPeople(t *testing.T) {
	var out bytes.Buffer
	s := node.Status{Name: "n1", ID: "a", Phase: "running", Cluster: "c", Leader: "b", Pods: &node.PodCount{Waiting: 1},
		Members: []node.Member{{ID: "a", Name: "n1", Role: "voter", Health: "alive"}, {ID: "b", Name: "n2", Role: "voter", Health: "alive"}}}
	s.Pods.Running, s.Pods.All, s.Pods.Ended = 4, 6, 2
	s.Members[1].Ready, s.Members[1].Subnets, s.Members[1].Route = "Ready", []string{"10.42.1.0/24"}, "no: its route is missing"
	if err := printStatus(&out, s, ""); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Leader   n2\n", "Pods     4 of 6 run, 1 without a node, and 2 that ended\n", "n2    voter, leader  alive   Ready  -     10.42.1.0/24  no "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
}
