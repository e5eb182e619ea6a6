package report_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"kontiki/jepsen/check"
	"kontiki/jepsen/history"
	"kontiki/jepsen/report"
)

func example() report.Report {
	var events []history.Event
	add := func(at time.Duration, e history.Event) {
		e.Index, e.Time = int64(len(events))+1, int64(at)
		events = append(events, e)
	}
	for i := range 40 {
		at := time.Duration(i) * 250 * time.Millisecond
		node := []string{"n1", "n2", "n3"}[i%3]
		e := history.Event{Type: history.Invoke, Process: i%3 + 1, Node: node, Workload: "register", F: "read", Key: "r<1>"}
		add(at, e)
		e.Type = []history.Type{history.OK, history.OK, history.Fail, history.OK, history.Info}[i%5]
		e.Value, e.Revision, e.Error = "v", uint64(i), "a <b> & c"
		add(at+20*time.Millisecond, e)
		if i == 10 {
			add(at+30*time.Millisecond, history.Event{Type: history.Invoke, Process: -1, F: "partition-halves"})
		}
		if i == 20 {
			add(at+30*time.Millisecond, history.Event{Type: history.OK, Process: -1, F: "partition-halves", Key: "n1|n2,n3"})
			add(at+31*time.Millisecond, history.Event{Type: history.Invoke, Process: -2, F: history.Whole})
			add(at+32*time.Millisecond, history.Event{Type: history.OK, Process: -2, F: history.Whole})
		}
	}
	return report.Report{
		Events:   events,
		Findings: []report.Finding{{Workload: "register", Anomaly: check.Anomaly{Kind: "not linearizable", Text: "register <r>", At: []int64{31, 33}}}},
		Claims:   []report.Claim{{Name: "register", About: "is linearizable"}},
		Settings: []report.Setting{{Name: "Seed", Value: "7"}},
		Command:  "kontiki jepsen run --seed 7",
	}
}

// The page tells of everything, in a picture that is well-formed, and asks for nothing.
func TestPage(t *testing.T) {
	var page bytes.Buffer
	counts, err := example().Write(&page)
	if err != nil {
		t.Fatal(err)
	}
	if counts.Operations != 40 || counts.OK != 24 || counts.Failed != 8 || counts.Unknown != 8 || counts.Faults != 1 {
		t.Errorf("counts: %+v", counts)
	}
	text := page.String()
	for _, want := range []string{
		"One anomaly was found", "not linearizable", "register &lt;r&gt;", `id="anomaly-1"`, `href="#anomaly-1"`,
		"partition-halves", "n1|n2,n3", "during partition-halves", "kontiki jepsen run --seed 7", "is linearizable", "r&lt;1&gt;",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not tell of %q", want)
		}
	}
	for _, never := range []string{"http://", "https://", "<script", "<link", "@import", "url("} {
		if strings.Contains(text, never) {
			t.Errorf("the page has %q: it must stand alone", never)
		}
	}
	from, to := strings.Index(text, "<svg"), strings.Index(text, "</svg>")
	if from < 0 || to < from {
		t.Fatal("there is no picture")
	}
	decoder := xml.NewDecoder(strings.NewReader(text[from : to+len("</svg>")]))
	for {
		if _, err := decoder.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("the picture: %v", err)
		}
	}
	picture := text[from:to]
	for what, want := range map[string]int{`class="fault"`: 1, `class="spot"`: 1, `class="disc"`: 1, `class="node"`: 3} {
		if got := strings.Count(picture, what); got != want {
			t.Errorf("the picture has %d of %s, want %d", got, what, want)
		}
	}
	if strings.Contains(picture, "NaN") || strings.Contains(picture, "Inf") {
		t.Error("the picture has a number that is none")
	}
}

// Whatever a history is like, there is a page.
func TestPageOfLittle(t *testing.T) {
	for name, events := range map[string][]history.Event{
		"nothing":       nil,
		"one call":      {{Index: 1, Type: history.Invoke, Process: 1, Node: "n1", Workload: "set", F: "add"}},
		"a fault alone": {{Index: 1, Type: history.Invoke, Process: -1, F: "kill"}},
	} {
		if _, err := (report.Report{Events: events}).Write(io.Discard); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
