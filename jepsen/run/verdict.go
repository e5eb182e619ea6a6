package run

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"kontiki/jepsen/check"
	"kontiki/jepsen/history"
	"kontiki/jepsen/nemesis"
	"kontiki/jepsen/report"
	"kontiki/jepsen/workload"
)

// Settings are what a run was told, as they are kept beside its history.
type Settings struct {
	Workloads []string `json:"workloads"`
	Nemeses   []string `json:"nemeses"`
	Nodes     int      `json:"nodes"`
	Time      string   `json:"time"`
	Seed      uint64   `json:"seed"`
	Clients   int      `json:"clients"`
	Rate      float64  `json:"rate"`
	Command   string   `json:"command"`
	Program   string   `json:"program"`
}

func (c Config) settings() Settings {
	return Settings{c.Workloads, c.Nemeses, c.Nodes, c.Time.String(), c.Seed, c.Clients, c.Rate, c.Command, c.Program}
}

func (s Settings) write(dir string) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, settingsFile), append(data, '\n'), 0o644)
}

// Verdict is what a history shows.
type Verdict struct {
	Findings []report.Finding
	Unproven []string // why that nothing was found would prove less than it seems to
	Report   string   // its file
	Counts   report.Counts
}

// Judge judges the history of a run that is kept in a directory, and writes its report
// anew.
func Judge(dir string) (*Verdict, error) {
	var settings Settings
	data, err := os.ReadFile(filepath.Join(dir, settingsFile))
	if err != nil {
		return nil, fmt.Errorf("%s is not the directory of a run: %w", dir, err)
	}
	if err := json.Unmarshal(data, &settings); err != nil {
		return nil, fmt.Errorf("%s: %w", settingsFile, err)
	}
	events, err := history.Load(filepath.Join(dir, historyFile))
	if err != nil {
		return nil, err
	}
	workloads, err := workload.Select(settings.Workloads)
	if err != nil {
		return nil, err
	}
	findings, unproven := judge(workloads, events), settings.unproven(workloads, events)
	r := report.Report{Findings: findings, Unproven: unproven, Events: events, Settings: settings.rows(), Command: settings.Command}
	for _, w := range workloads {
		r.Claims = append(r.Claims, report.Claim{Name: w.Name, About: w.About})
	}
	for _, kind := range settings.Nemeses {
		r.Faults = append(r.Faults, report.Claim{Name: kind, About: nemesis.About(kind)})
	}
	var page bytes.Buffer
	counts, err := r.Write(&page)
	if err != nil {
		return nil, err
	}
	v := &Verdict{Findings: findings, Unproven: unproven, Report: filepath.Join(dir, reportFile), Counts: counts}
	return v, os.WriteFile(v.Report, page.Bytes(), 0o644)
}

func judge(workloads []workload.Workload, events []history.Event) []report.Finding {
	var findings []report.Finding
	for _, w := range workloads {
		for _, a := range w.Judge(events) {
			findings = append(findings, report.Finding{Workload: w.Name, Anomaly: a})
		}
	}
	for _, e := range events {
		if e.Fault() && e.F == history.Whole && e.Type == history.Fail {
			findings = append(findings, report.Finding{Workload: "cluster",
				Anomaly: check.Anomaly{Kind: "not whole again", Text: e.Error, At: []int64{e.Index}}})
		}
	}
	return findings
}

// unproven tells what was asked for and cannot be judged: no write that was acknowledged, no
// fault that was played.
func (s Settings) unproven(workloads []workload.Workload, events []history.Event) (why []string) {
	for _, w := range workloads {
		for _, one := range w.Unproven(events) {
			why = append(why, w.Name+": "+one)
		}
	}
	played := func(e history.Event) bool { return e.Fault() && e.Type == history.Invoke && e.F != history.Whole }
	if (Config{Nemeses: s.Nemeses}).faults() != nil && !slices.ContainsFunc(events, played) {
		why = append(why, "no fault was played: one takes up to ten seconds, and --time was "+s.Time)
	}
	return why
}

func (s Settings) rows() []report.Setting {
	return []report.Setting{
		{Name: "Workloads", Value: strings.Join(s.Workloads, ", ")},
		{Name: "Nemeses", Value: strings.Join(s.Nemeses, ", ")},
		{Name: "Nodes", Value: fmt.Sprint(s.Nodes)},
		{Name: "Time of faults", Value: s.Time},
		{Name: "Clients", Value: fmt.Sprintf("%d of each workload on each node, %g requests a second of each workload", s.Clients, s.Rate)},
		{Name: "Seed", Value: fmt.Sprint(s.Seed)},
		{Name: "Program", Value: s.Program},
	}
}
