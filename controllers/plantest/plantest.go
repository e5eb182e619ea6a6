// Package plantest runs a planner over YAML pairs: testdata/*.yaml holds
// documents with `name`, `input` and `output`; the planner gets the input and its
// answer must read as the output. For planners that are held against a model under random
// events it has a cache that is behind, and crashes. Only tests import this package.
package plantest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/util/yaml"
	sigsyaml "sigs.k8s.io/yaml"
)

type pair struct {
	Name   string          `json:"name"`
	Input  json.RawMessage `json:"input"`
	Output json.RawMessage `json:"output"`
}

// Run plans every pair in testdata and compares.
func Run[In, Out any](t *testing.T, plan func(In) Out) {
	t.Helper()
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no testdata/*.yaml (%v)", err)
	}
	for _, file := range files {
		for _, p := range read(t, file) {
			t.Run(filepath.Base(file)+"/"+p.Name, func(t *testing.T) {
				var in In
				if err := sigsyaml.UnmarshalStrict(p.Input, &in); err != nil {
					t.Fatalf("input: %v", err)
				}
				check(t, p.Output, plan(in))
			})
		}
	}
}

func read(t *testing.T, file string) []pair {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var pairs []pair
	for docs := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(raw), 4096); ; {
		var p pair
		err := docs.Decode(&p)
		if errors.Is(err, io.EOF) {
			return pairs
		}
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if p.Name != "" {
			pairs = append(pairs, p)
		}
	}
}

func check(t *testing.T, wantRaw json.RawMessage, got any) {
	t.Helper()
	gotRaw, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	var want, have any
	if len(wantRaw) == 0 {
		wantRaw = []byte("{}")
	}
	if err := json.Unmarshal(wantRaw, &want); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(gotRaw, &have); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, have); diff != "" {
		text, _ := sigsyaml.JSONToYAML(gotRaw)
		t.Errorf("plan differs (-want +got):\n%s\ngot:\n%s", diff, text)
	}
}
