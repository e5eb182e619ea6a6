package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"kontiki/bench/report"
)

// machine says where and when a table was made.
type machine struct {
	At         time.Time `json:"at"`
	Took       string    `json:"took"`
	Length     string    `json:"length"`
	Kernel     string    `json:"kernel"`
	CPUs       int       `json:"cpus"`
	LoadBefore string    `json:"loadBefore"` // averages over 1, 5 and 15 minutes
	LoadAfter  string    `json:"loadAfter"`
}

// printTable prints the rows, a group per section.
func printTable(out io.Writer, rows []report.Row, about machine) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nWHAT\tTARGET\tMEASURED\tPEER\tRATIO\t")
	section, met, judged := "", 0, 0
	for _, r := range rows {
		if r.Section != section {
			section = r.Section
			fmt.Fprintf(w, "%s\t\t\t\t\t\n", strings.ToUpper(section))
		}
		peer, ratio := "", ""
		if r.Peer != nil {
			peer = r.Peer.Name + " " + with(report.Figure(r.Peer.Value, r.Unit), r.Peer.Detail)
			ratio = fmt.Sprintf("%.2f ×", r.Ratio)
		}
		if r.Verdict != "" {
			judged++
		}
		if r.Verdict == report.Met {
			met++
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", r.What, dash(r.Target), with(report.Figure(r.Value, r.Unit), r.Detail), dash(peer), dash(ratio), r.Verdict)
	}
	fmt.Fprintf(w, "\n%d of %d targets met; %d CPUs, Linux %s, load %s before and %s after, took %s (%s)\n",
		met, judged, about.CPUs, about.Kernel, about.LoadBefore, about.LoadAfter, about.Took, about.Length)
	return w.Flush()
}

func with(figure, detail string) string {
	if detail == "" {
		return figure
	}
	return figure + " (" + detail + ")"
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// load is the machine's load averages, empty where there are none.
func load() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	return strings.Join(strings.Fields(string(b))[:3], " ")
}

func kernel() string {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func cpuCount() int { return runtime.NumCPU() }
