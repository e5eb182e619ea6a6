// Package report is what the programs of the bench say: rows of one table. A
// program makes a Report and adds rows as it gets them; run by the driver (see
// bench/DESIGN.md) the rows are lines of JSON, run by hand they are lines of text.
// A Report is used by one goroutine. Only the bench imports this package.
package report

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Row is one measurement.
type Row struct {
	Section string  `json:"section"`          // set by the driver
	What    string  `json:"what"`             // what was measured, on what
	Value   float64 `json:"value"`            // the figure, in Unit
	Unit    string  `json:"unit"`             // "ms", "/s", "MB", "% CPU", …
	Detail  string  `json:"detail,omitempty"` // what else is worth knowing of it
	Peer    *Peer   `json:"peer,omitempty"`   // what a user would take instead, in the same run

	// Target is a goal: a relation, a number and a unit, as in "≤ 500 ms". With the
	// unit "×" it is a goal for Value ÷ Peer.Value. Empty: reported, no goal.
	Target  string  `json:"target,omitempty"`
	Ratio   float64 `json:"ratio,omitempty"`   // Value ÷ Peer.Value, set by Judge
	Verdict Verdict `json:"verdict,omitempty"` // set by Judge
}

// Peer is the same measurement of something else.
type Peer struct {
	Name   string  `json:"name"`
	Value  float64 `json:"value"`
	Detail string  `json:"detail,omitempty"`
}

// Verdict compares a row with its target.
type Verdict string

// What a Verdict can be; a row without target, or whose peer is missing, has none.
const (
	Met    Verdict = "met"
	Missed Verdict = "missed"
)

// Judge computes ratio and verdict. It fails if the target cannot be read.
func (r *Row) Judge() error {
	r.Ratio, r.Verdict = 0, ""
	if r.Peer != nil && r.Peer.Value != 0 {
		r.Ratio = r.Value / r.Peer.Value
	}
	if r.Target == "" {
		return nil
	}
	fields := strings.Fields(r.Target)
	if len(fields) < 2 {
		return fmt.Errorf("%s: the target %q is no relation, number and unit, as in %q", r.What, r.Target, "≤ 500 ms")
	}
	relation, unit := fields[0], strings.Join(fields[2:], " ")
	goal, err := strconv.ParseFloat(strings.ReplaceAll(fields[1], ",", ""), 64)
	if err != nil {
		return fmt.Errorf("%s: the target %q: %w", r.What, r.Target, err)
	}
	value := r.Value
	switch {
	case unit == "×" && r.Ratio == 0:
		return nil // no peer, no verdict
	case unit == "×":
		value = r.Ratio
	case unit != r.Unit:
		return fmt.Errorf("%s: the target %q has another unit than the value, %q", r.What, r.Target, r.Unit)
	}
	met, known := map[string]bool{"≤": value <= goal, "<": value < goal, "≥": value >= goal, ">": value > goal, "=": value == goal}[relation]
	if !known {
		return fmt.Errorf("%s: the target %q begins with none of ≤ < ≥ > =", r.What, r.Target)
	}
	r.Verdict = Missed
	if met {
		r.Verdict = Met
	}
	return nil
}

// Figure writes a number with three digits that matter, and its unit.
func Figure(value float64, unit string) string {
	text := strconv.FormatFloat(value, 'f', 0, 64)
	switch {
	case value == 0:
		text = "0"
	case value < 1:
		text = strconv.FormatFloat(value, 'g', 2, 64)
	case value < 10:
		text = strconv.FormatFloat(value, 'f', 2, 64)
	case value < 100:
		text = strconv.FormatFloat(value, 'f', 1, 64)
	case value >= 10_000:
		for i := len(text) - 3; i > 0; i -= 3 {
			text = text[:i] + "," + text[i:]
		}
	}
	if unit == "" || strings.HasPrefix(unit, "/") {
		return text + unit
	}
	return text + " " + unit
}

// Report takes the rows of one program.
type Report struct {
	out     io.Writer
	machine bool
}

// New writes rows to out: as lines of JSON for the driver, else for people.
func New(out io.Writer, machine bool) *Report { return &Report{out, machine} }

// Add judges a row and writes it.
func (r *Report) Add(row Row) error {
	if err := row.Judge(); err != nil {
		return err
	}
	if r.machine {
		return json.NewEncoder(r.out).Encode(row)
	}
	_, err := fmt.Fprintln(r.out, row)
	return err
}

// String is the row as one line for people.
func (r Row) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", r.What, Figure(r.Value, r.Unit))
	if r.Detail != "" {
		fmt.Fprintf(&b, " (%s)", r.Detail)
	}
	if p := r.Peer; p != nil {
		fmt.Fprintf(&b, "; %s %s", p.Name, Figure(p.Value, r.Unit))
		if p.Detail != "" {
			fmt.Fprintf(&b, " (%s)", p.Detail)
		}
		fmt.Fprintf(&b, ", %.2f ×", r.Ratio)
	}
	if r.Target != "" {
		fmt.Fprintf(&b, "; target %s", r.Target)
	}
	if r.Verdict != "" {
		fmt.Fprintf(&b, ": %s", r.Verdict)
	}
	return b.String()
}
