package main

import (
	"bytes"
	"strings"
	"testing"
)

// TestMisuse: what a user types wrongly is told with what would be right.
func TestMisuse(t *testing.T) {
	for _, c := range []struct {
		typed string
		says  []string
	}{
		{"lbb up", []string{`unknown command "lbb" for "kontiki"`, "lab"}},
		{"lab upp", []string{`unknown command "upp" for "kontiki lab"`, "kontiki lab --help"}},
		{"members leave", []string{`unknown command "leave" for "kontiki members"`, "kontiki members --help"}},
		{"lab kill", []string{"accepts 1 arg(s), received 0", "kontiki lab kill NODE"}},
		{"image rm", []string{"kontiki image rm IMAGE..."}},
		{"status n1", []string{`unknown command "n1" for "kontiki status"`, "kontiki status [flags]"}},
		{"status --wach", []string{"unknown flag: --wach", "kontiki status --help"}},
		{"lab up --nodes many", []string{`"many"`, "kontiki lab up --help"}},
	} {
		var out bytes.Buffer
		cmd := rootCommand()
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		cmd.SetArgs(strings.Fields(c.typed))
		err := cmd.ExecuteContext(t.Context())
		if err == nil {
			t.Errorf("kontiki %s succeeds: %s", c.typed, out.String())
			continue
		}
		for _, want := range c.says {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("kontiki %s: %v, want %q in it", c.typed, err, want)
			}
		}
	}
}

// TestCommandsOfCommands tell of them, when they are typed alone.
func TestCommandsOfCommands(t *testing.T) {
	for _, name := range []string{"lab", "image", "net", "store", "secret", "secrets", "snapshot", "jepsen"} {
		var out bytes.Buffer
		cmd := rootCommand()
		cmd.SetOut(&out)
		cmd.SetArgs([]string{name})
		if err := cmd.ExecuteContext(t.Context()); err != nil || !strings.Contains(out.String(), "Available Commands:") {
			t.Errorf("kontiki %s: %v: %s", name, err, out.String())
		}
	}
}
