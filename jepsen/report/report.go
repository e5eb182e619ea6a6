package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"slices"
	"strings"
	"time"

	"kontiki/jepsen/check"
	"kontiki/jepsen/history"
)

// Report is what the page tells.
type Report struct {
	Findings []Finding
	Unproven []string // what could not be judged
	Events   []history.Event
	Claims   []Claim // of the workloads
	Faults   []Claim // what the nemeses do
	Settings []Setting
	Command  string // that runs it again
}

// Finding is an anomaly that a workload's judge found.
type Finding struct {
	Workload string
	Anomaly  check.Anomaly
}

// Claim is a name and a sentence about it.
type Claim struct{ Name, About string }

// Setting is something that a run was told.
type Setting struct{ Name, Value string }

// Counts are how many operations a history has.
type Counts struct {
	Operations, OK, Refused, Failed, Unknown, Told, Faults int
}

func (c Counts) String() string {
	return fmt.Sprintf("%d operations: %d answered, %d refused with a reason, %d failed, %d of unknown outcome; watches were told %d events; %d faults",
		c.Operations, c.OK, c.Refused, c.Failed, c.Unknown, c.Told, c.Faults)
}

//go:embed page.html
var pageText string

// mostShown bounds the anomalies that the page tells in words.
const mostShown = 60

// Write writes the page.
func (r Report) Write(out io.Writer) (Counts, error) {
	page, err := template.New("page").Parse(pageText)
	if err != nil {
		return Counts{}, err
	}
	s := newSeries(r.Events)
	marks := r.marks(s)
	c := s.counts()
	verdict := "No anomaly was found"
	switch n := len(r.Findings); {
	case n == 1:
		verdict = "One anomaly was found"
	case n > 1:
		verdict = fmt.Sprintf("%d anomalies were found", n)
	case len(r.Unproven) > 0:
		verdict = "No anomaly was found, and not all was proven"
	}
	return c, page.Execute(out, map[string]any{
		"Verdict": verdict, "Bad": len(r.Findings)+len(r.Unproven) > 0, "Unproven": r.Unproven, "Counts": c.String(), "Lasted": seconds(s.length),
		"Picture":   template.HTML(s.draw(marks)),
		"Nodes":     s.legend(),
		"Anomalies": r.anomalies(s), "More": max(0, len(r.Findings)-mostShown),
		"Claims": r.Claims, "Kinds": r.Faults, "Faults": s.faultRows(), "Calls": s.callRows(),
		"Settings": r.Settings, "Command": r.Command,
	})
}

// mark is where an anomaly is in the picture.
type mark struct {
	number int
	at     time.Duration
	node   string
	text   string
}

// marks are at the operations that anomalies concern, one for each anomaly.
func (r Report) marks(s *series) (marks []mark) {
	for i, f := range r.Findings {
		m := mark{number: i + 1, at: s.length, text: f.Anomaly.Kind}
		if len(f.Anomaly.At) > 0 {
			if e, ok := s.event(f.Anomaly.At[0]); ok {
				m.at, m.node = time.Duration(e.Time), e.Node
			}
		}
		marks = append(marks, m)
	}
	return marks
}

// told is an anomaly in words.
type told struct {
	Number         int
	Workload, Kind string
	Text           string
	Concerned      []concerned
}

// concerned is an event that an anomaly is about.
type concerned struct{ At, Text, During string }

func (r Report) anomalies(s *series) (all []told) {
	for i, f := range r.Findings[:min(len(r.Findings), mostShown)] {
		t := told{Number: i + 1, Workload: f.Workload, Kind: f.Anomaly.Kind, Text: f.Anomaly.Text}
		places := slices.Compact(slices.Sorted(slices.Values(f.Anomaly.At)))
		for _, place := range places[:min(len(places), 12)] {
			e, ok := s.event(place)
			if !ok {
				continue
			}
			c := concerned{At: seconds(time.Duration(e.Time)), During: strings.Join(s.faultsAt(time.Duration(e.Time)), "; ")}
			if op, ok := s.byCall[place]; ok {
				c.Text = op.String()
				if op.Return.Type != "" {
					c.At += " – " + seconds(time.Duration(op.Return.Time))
				}
			} else {
				c.Text = fmt.Sprintf("process %d on %s: %s %s %s = %s at revision %d", e.Process, e.Node, e.F, e.Level, e.Key, e.Value, e.Revision)
			}
			t.Concerned = append(t.Concerned, c)
		}
		all = append(all, t)
	}
	return all
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

// faultRow is a fault, and what clients saw of it.
type faultRow struct {
	Kind, Whom, From, To      string
	Answered, Failed, Unknown int
	Gap, Slowest              string
	Whole                     string
}

func (s *series) faultRows() (rows []faultRow) {
	for _, b := range s.bands {
		row := faultRow{Kind: b.kind, Whom: b.whom, From: seconds(b.from), To: seconds(b.to), Whole: "–"}
		if b.whole > 0 {
			row.Whole = seconds(b.whole - b.to)
		}
		last, gap, slowest := b.from, time.Duration(0), time.Duration(0)
		for _, a := range s.answers {
			if a.at < b.from || a.at > b.to {
				continue
			}
			switch a.outcome {
			case check.OK:
				row.Answered++
				gap, last = max(gap, a.at-last), a.at
				slowest = max(slowest, a.took)
			case check.Failed:
				row.Failed++
			default:
				row.Unknown++
			}
		}
		row.Gap, row.Slowest = seconds(max(gap, b.to-last)), seconds(slowest)
		rows = append(rows, row)
	}
	return rows
}

// callRow is a kind of call of a workload, and how long it took.
type callRow struct {
	Workload, F                  string
	OK, Refused, Failed, Unknown int
	Median, P99, Slowest         string
}

func (s *series) callRows() (rows []callRow) {
	type kind struct{ workload, f string }
	took := make(map[kind][]time.Duration)
	counts := make(map[kind]*callRow)
	var order []kind
	for _, op := range s.ops {
		if op.Call.Fault() {
			continue
		}
		k := kind{op.Call.Workload, op.Call.F}
		if counts[k] == nil {
			counts[k] = &callRow{Workload: k.workload, F: k.f}
			order = append(order, k)
		}
		count(op, &counts[k].OK, &counts[k].Refused, &counts[k].Failed, &counts[k].Unknown)
		if op.Outcome() == check.OK {
			took[k] = append(took[k], op.Duration())
		}
	}
	slices.SortFunc(order, func(a, b kind) int {
		return strings.Compare(a.workload+"\x00"+a.f, b.workload+"\x00"+b.f)
	})
	for _, k := range order {
		row, d := counts[k], took[k]
		slices.Sort(d)
		row.Median, row.P99, row.Slowest = "–", "–", "–"
		if len(d) > 0 {
			row.Median, row.P99, row.Slowest = millis(quantile(d, 0.5)), millis(quantile(d, 0.99)), millis(d[len(d)-1])
		}
		rows = append(rows, *row)
	}
	return rows
}

func count(op history.Op, ok, refused, failed, unknown *int) {
	switch {
	case op.Return.Refused != "":
		*refused++
	case op.Outcome() == check.OK:
		*ok++
	case op.Outcome() == check.Failed:
		*failed++
	default:
		*unknown++
	}
}

func millis(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}

func quantile(sorted []time.Duration, q float64) time.Duration {
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

func (s *series) counts() (c Counts) {
	for _, op := range s.ops {
		switch {
		case op.Call.Fault():
			if op.Call.F != history.Whole {
				c.Faults++
			}
		default:
			c.Operations++
			count(op, &c.OK, &c.Refused, &c.Failed, &c.Unknown)
		}
	}
	for _, e := range s.events {
		if e.Type == history.Info && e.F == "told" {
			c.Told++
		}
	}
	return c
}
