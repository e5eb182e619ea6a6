package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"kontiki/bench/report"
)

func TestBenchmarksBecomeRows(t *testing.T) {
	const output = `goos: linux
BenchmarkWays/throughput/bare-2         	    4096	    260000 ns/op	4000.00 MB/s
BenchmarkWays/throughput/kontiki-2      	    4096	    262000 ns/op	3920.00 MB/s
BenchmarkAll-2	10	400000000 ns/op	120 B/op	3 allocs/op
BenchmarkPods	10	1000000 ns/op	55.5 p50-ms
PASS
`
	var rest bytes.Buffer
	results, err := parseBench(strings.NewReader(output), &rest)
	if err != nil || rest.String() != "goos: linux\nPASS\n" {
		t.Fatalf("left over %q, %v", rest.String(), err)
	}
	rows := fold(results, []named{
		{bench: "Ways/throughput/kontiki", metric: "MB/s", what: "TCP", unit: "MB/s", target: "≥ 0.97 ×", peer: "Ways/throughput/bare", called: "bare"},
		{bench: "All", what: "all programmed", unit: "ms", target: "≤ 500 ms"},
		{bench: "Gone", what: "renamed", unit: "ms"},
	})
	var got []string
	for _, r := range rows {
		if err := r.Judge(); err != nil {
			t.Fatal(err)
		}
		got = append(got, r.String())
	}
	want := []string{
		"TCP: 3920 MB/s; bare 4000 MB/s, 0.98 ×; target ≥ 0.97 ×: met",
		"all programmed: 400 ms (120 B/op, 3 allocs/op); target ≤ 500 ms: met",
		"Ways/throughput/bare: 260 µs",
		"Pods: 1000 µs",
		"Pods: 55.5 p50-ms",
	}
	if !slices.Equal(got, want) {
		t.Errorf("rows:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// Every target of the list can be read, and no two sections have one name.
func TestSections(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range sections {
		if seen[s.name] || s.program == "" && len(s.packages) == 0 {
			t.Errorf("section %q is there twice, or has nothing to run", s.name)
		}
		seen[s.name] = true
		for _, n := range s.rows {
			row := report.Row{What: n.what, Value: 1, Unit: n.unit, Target: n.target, Peer: &report.Peer{Value: 1}}
			if err := row.Judge(); err != nil {
				t.Errorf("%s: %v", s.name, err)
			}
		}
	}
}
