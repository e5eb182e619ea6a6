package acceptance

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// tourPatience bounds what one section takes: a CronJob's waits for the next minute.
const tourPatience = 2 * patience

// section is what docs/TOUR.md has a reader type under one heading.
type section struct {
	title  string
	script string
	want   []string // lines of the output, in this order
}

// TestTour types what docs/TOUR.md says, and looks for what it says will come out. That
// page shows each kind of thing that a cluster runs.
func TestTour(t *testing.T) {
	sections := readTour(t, filepath.Join("..", "..", "docs", "TOUR.md"))
	c := newCluster(t, "tour", 3)
	c.debianProgram(t, "busybox")
	first, last := sections[0], sections[len(sections)-1]
	c.typed(t, first)
	if t.Failed() {
		return
	}
	// They mostly wait, each for something else: all at once, not as many as there are cores.
	var typing sync.WaitGroup
	for _, s := range sections[1 : len(sections)-1] {
		typing.Go(func() { t.Run(s.title, func(t *testing.T) { c.typed(t, s) }) })
	}
	typing.Wait()
	t.Run(last.title, func(t *testing.T) { c.typed(t, last) })
}

// typed runs a section's commands in the folder of the sources, as make up leaves it, but
// in this test's lab.
func (c *cluster) typed(t *testing.T, s section) {
	t.Helper()
	began := time.Now()
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), tourPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", strings.ReplaceAll(s.script, "kontiki lab ", "kontiki lab --name tour "))
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "PATH="+filepath.Join(root, "bin")+":"+os.Getenv("PATH"), "KUBECONFIG="+c.Hosts()[0].Kubeconfig())
	cmd.WaitDelay = time.Second // what it started may hold its output open
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	if err == nil {
		err = inOrder(stdout.String(), s.want)
	}
	if err != nil {
		t.Errorf("%s: %v\nits output:\n%s%s", s.title, err, stdout.String(), stderr.String())
	}
	t.Logf("%s: %v", s.title, time.Since(began).Round(100*time.Millisecond))
}

// inOrder says which of the wanted lines is missing after those before it.
func inOrder(output string, want []string) error {
	lines := strings.Split(output, "\n")
	for _, w := range want {
		i := 0
		for i < len(lines) && !strings.Contains(spaced(lines[i]), spaced(w)) {
			i++
		}
		if i == len(lines) {
			return fmt.Errorf("there is no %q", w)
		}
		lines = lines[i+1:]
	}
	return nil
}

// spaced has one space wherever there are some.
func spaced(line string) string { return strings.Join(strings.Fields(line), " ") }

// readTour reads a page of headings, under each of which are a box of shell and one of
// what comes out.
func readTour(t *testing.T, path string) []section {
	t.Helper()
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []section
	box := ""
	for line := range strings.Lines(string(page)) {
		line = strings.TrimSuffix(line, "\n")
		title, heads := strings.CutPrefix(line, "## ")
		opened, fence := strings.CutPrefix(line, "```")
		switch {
		case fence:
			box = opened
		case box == "sh":
			all[len(all)-1].script += line + "\n"
		case box == "text":
			all[len(all)-1].want = append(all[len(all)-1].want, line)
		case heads:
			all = append(all, section{title: title})
		}
	}
	for i, s := range all {
		if s.script == "" || s.want == nil && i > 0 {
			t.Fatalf("%s: %q lacks its commands or what comes out", path, s.title)
		}
	}
	return all
}
