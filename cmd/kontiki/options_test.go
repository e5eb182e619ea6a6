package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// options is a small set of flags of all kinds.
type options struct {
	config, name string
	join         []string
	port         uint16
	replace      bool
}

func parse(t *testing.T, args []string, env map[string]string) (o options, err error) {
	t.Helper()
	flags := pflag.NewFlagSet("node", pflag.ContinueOnError)
	flags.StringVar(&o.config, "config", "", "")
	flags.StringVar(&o.name, "name", "", "")
	flags.StringSliceVar(&o.join, "join", nil, "")
	flags.Uint16Var(&o.port, "ring-port", 7946, "")
	flags.BoolVar(&o.replace, "replace", false, "")
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	return o, fillFlags(flags, &o.config, func(name string) (string, bool) { v, ok := env[name]; return v, ok })
}

func write(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "node.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFlagBeforeVariableBeforeFile(t *testing.T) {
	file := write(t, "name: of-file\njoin: [10.0.0.1, n2]\nring-port: 7000\nreplace: true\n")
	env := map[string]string{"KONTIKI_CONFIG": file, "KONTIKI_RING_PORT": "7001", "KONTIKI_NAME": "of-variable"}
	got, err := parse(t, []string{"--name", "of-flag"}, env)
	if err != nil {
		t.Fatal(err)
	}
	if got.name != "of-flag" || got.port != 7001 || !slices.Equal(got.join, []string{"10.0.0.1", "n2"}) || !got.replace {
		t.Errorf("got %+v", got)
	}
	if got, err := parse(t, nil, map[string]string{"KONTIKI_JOIN": "a,b", "KONTIKI_NAME": ""}); err != nil || !slices.Equal(got.join, []string{"a", "b"}) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestOptionsThatAreRefused(t *testing.T) {
	for content, want := range map[string]string{
		"nmae: n1":          `no option "nmae"; there are join, name, replace, ring-port`,
		"config: x":         `no option "config"`,
		"ring-port: 70000":  "ring-port",
		"name: {a: b}":      "want text, a number",
		"name: a\nname: b":  "already set",
		"join: [[1], {}]":   "want text, a number",
		"ring-port: [1, 2]": "ring-port",
	} {
		file := write(t, content)
		if _, err := parse(t, []string{"--config", file}, nil); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), file) {
			t.Errorf("%q: %v, want an error that names the file and speaks of %q", content, err, want)
		}
	}
	if _, err := parse(t, nil, map[string]string{"KONTIKI_RING_PORT": "many"}); err == nil || !strings.Contains(err.Error(), "KONTIKI_RING_PORT") {
		t.Errorf("a bad variable: %v", err)
	}
	if _, err := parse(t, []string{"--config", "/nowhere"}, nil); err == nil || !strings.Contains(err.Error(), "/nowhere") {
		t.Errorf("a missing file: %v", err)
	}
}
