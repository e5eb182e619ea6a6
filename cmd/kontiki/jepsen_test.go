package main

import (
	"bytes"
	"errors"
	"testing"

	"kontiki/jepsen/check"
	"kontiki/jepsen/report"
	"kontiki/jepsen/run"
)

// TestVerdictExits: what was found counts before what was not proven, and a run that did
// not prove all that it was asked to is no success.
func TestVerdictExits(t *testing.T) {
	found := []report.Finding{{Workload: "set", Anomaly: check.Anomaly{Kind: "a lost write"}}}
	unproven := []string{"no fault was played"}
	for name, c := range map[string]struct {
		verdict *run.Verdict
		err     error
		code    int
	}{
		"nothing found":             {&run.Verdict{}, nil, 0},
		"an anomaly":                {&run.Verdict{Findings: found}, nil, exitAnomaly},
		"not all proven":            {&run.Verdict{Unproven: unproven}, nil, exitBroken},
		"an anomaly in part of it":  {&run.Verdict{Findings: found, Unproven: unproven}, nil, exitAnomaly},
		"a lab that cannot be made": {nil, errors.New("no root"), exitBroken},
	} {
		var out bytes.Buffer
		var exit exitError
		err := tellVerdict(&out, c.verdict, c.err)
		if errors.As(err, &exit); exit.code != c.code || (err == nil) != (c.code == 0) {
			t.Errorf("%s: %v, code %d, want %d", name, err, exit.code, c.code)
		}
	}
}
