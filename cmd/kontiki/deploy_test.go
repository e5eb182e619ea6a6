package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestInstalledOptions: the file of options that make install puts in place is understood, with
// what it only mentions as well.
func TestInstalledOptions(t *testing.T) {
	installed, err := os.ReadFile(filepath.Join("..", "..", "deploy", "node.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	all := regexp.MustCompile(`(?m)^# ([a-z-]+: )`).ReplaceAllString(string(installed), "$1")
	if all == string(installed) {
		t.Error("it mentions nothing")
	}
	for _, text := range []string{string(installed), all} {
		file := write(t, text)
		flags := nodeCommand().Flags()
		if err := fillFlags(flags, &file, func(string) (string, bool) { return "", false }); err != nil {
			t.Fatal(err)
		}
		if secret := flags.Lookup("secret-file").Value.String(); secret != "/etc/kontiki/secret" {
			t.Errorf("the secret is read from %q", secret)
		}
	}
}

// TestInstalledService: what systemd is told starts a node, and leaves its pods alone.
func TestInstalledService(t *testing.T) {
	unit, err := os.ReadFile(filepath.Join("..", "..", "deploy", "kontiki.service"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(unit), "\n")
	for _, line := range []string{"KillMode=process", "Delegate=yes"} {
		if !slices.Contains(lines, line) {
			t.Errorf("it lacks %s", line)
		}
	}
	at := slices.IndexFunc(lines, func(line string) bool { return strings.HasPrefix(line, "ExecStart=") })
	if at < 0 {
		t.Fatal("it starts nothing")
	}
	command, options, err := rootCommand().Find(strings.Fields(strings.TrimPrefix(lines[at], "ExecStart="))[1:])
	if err == nil {
		err = command.ParseFlags(options)
	}
	if err != nil {
		t.Fatal(err)
	}
	if config := command.Flags().Lookup("config").Value.String(); command.Name() != "node" || config != "/etc/kontiki/node.yaml" {
		t.Errorf("it starts %s with the options in %s", command.CommandPath(), config)
	}
}
