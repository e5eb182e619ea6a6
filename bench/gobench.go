package main

import (
	"bufio"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"kontiki/bench/report"
)

// result is one line of go test -bench.
type result struct {
	name    string // without "Benchmark" and "-2"
	metrics []metric
}

type metric struct {
	unit  string
	value float64
}

// cpus is what go test appends to a name when there is more than one.
var cpus = regexp.MustCompile(`-\d+$`)

// parseBench reads the result lines among what a test binary prints. The other
// lines go to rest.
func parseBench(in io.Reader, rest io.Writer) (results []result, err error) {
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		name, ok := strings.CutPrefix(lines.Text(), "Benchmark")
		if !ok || len(fields) < 4 || len(fields)%2 != 0 {
			if _, err := fmt.Fprintln(rest, lines.Text()); err != nil {
				return nil, err
			}
			continue
		}
		r := result{name: cpus.ReplaceAllString(strings.Fields(name)[0], "")}
		for i := 2; i < len(fields); i += 2 {
			value, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				return nil, fmt.Errorf("%q: %w", lines.Text(), err)
			}
			r.metrics = append(r.metrics, metric{fields[i+1], value})
		}
		results = append(results, r)
	}
	return results, lines.Err()
}

// fold makes rows of the results. What is named comes first; the other metrics
// follow under their own names, except memory, which is a detail of its row.
func fold(results []result, names []named) (rows []report.Row) {
	used := map[string]bool{}
	get := func(bench, unit string) (float64, bool) {
		for _, r := range results {
			for _, m := range r.metrics {
				if r.name == bench && m.unit == unit {
					used[bench+" "+unit] = true
					return m.value, true
				}
			}
		}
		return 0, false
	}
	for _, n := range names {
		if n.metric == "" {
			n.metric = "ns/op"
		}
		value, ok := get(n.bench, n.metric)
		if !ok {
			continue
		}
		row := report.Row{What: n.what, Value: convert(value, n.metric, n.unit), Unit: n.unit, Target: n.target, Detail: memory(results, n.bench)}
		if peer, ok := get(n.peer, n.metric); ok {
			row.Peer = &report.Peer{Name: n.called, Value: convert(peer, n.metric, n.unit)}
		}
		rows = append(rows, row)
		used[n.bench+" ns/op"] = true // what it reports itself is what counts
	}
	for _, r := range results {
		for _, m := range r.metrics {
			if used[r.name+" "+m.unit] || m.unit == "B/op" || m.unit == "allocs/op" {
				continue
			}
			row := report.Row{What: r.name, Value: m.value, Unit: m.unit, Detail: memory(results, r.name)}
			if m.unit == "ns/op" {
				row.Value, row.Unit = m.value/1e3, "µs"
			}
			rows = append(rows, row)
		}
	}
	return rows
}

// convert turns nanoseconds an operation into the unit of a row.
func convert(value float64, metric, unit string) float64 {
	if metric != "ns/op" {
		return value
	}
	if unit == "/s" {
		return 1e9 / value
	}
	return value / map[string]float64{"ns": 1, "µs": 1e3, "ms": 1e6, "s": 1e9}[unit]
}

// memory tells a benchmark's allocations, if it reports them.
func memory(results []result, bench string) string {
	var parts []string
	for _, r := range results {
		for _, m := range r.metrics {
			if r.name == bench && (m.unit == "B/op" || m.unit == "allocs/op") {
				parts = append(parts, strconv.FormatFloat(m.value, 'f', -1, 64)+" "+m.unit)
			}
		}
	}
	return strings.Join(parts, ", ")
}
