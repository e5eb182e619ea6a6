package acceptance

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestJepsenRun has kontiki jepsen run strike a cluster of three for half a minute, as a
// user would type it: no anomaly is found, and the report and the history are there.
func TestJepsenRun(t *testing.T) {
	bin := os.Getenv("KONTIKI_BIN")
	if bin == "" || os.Getuid() != 0 {
		t.Skip("needs root and KONTIKI_BIN, as make test sets it")
	}
	dir := filepath.Join(t.TempDir(), "report")
	run := exec.CommandContext(t.Context(), bin, "jepsen", "run", "--name", "run", "--nodes", "3", "--time", "30s",
		"--nemesis", "kill,pause,partition-leader,partition-one-way", "--report", dir)
	out, err := run.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(dir, "report.html"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(page, []byte("<svg")) {
		t.Error("the report shows no picture")
	}
	history, err := os.ReadFile(filepath.Join(dir, "history.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Count(history, []byte(`"ok"`)) < 100 {
		t.Errorf("the history of %d bytes tells of hardly anything that was answered", len(history))
	}
}
