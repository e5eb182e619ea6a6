package shim_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kontiki/runtime/shim/shimtest"
)

// A frozen container, as somebody's pause leaves it, can be ended all the same.
func TestDeleteFrozen(t *testing.T) {
	e := shimtest.New(t)
	e.Sandbox("a")
	c := e.Run(e.Spec("a", "c1", "tick"))
	waitForLine(t, c.IO.Stdout, "tick 1")
	freeze(t, c.PID)
	if err := e.Client.Delete(e.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	if shimtest.Alive(c.PID) {
		t.Error("its process lives")
	}
}

// freeze stops a process's cgroup as the freezer does, and waits until it stands.
func freeze(t *testing.T, pid int) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	file, value, state, frozen := "", "", "", ""
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if group := filepath.Join("/sys/fs/cgroup/freezer", f[2]); f[1] == "freezer" {
			file, value, state, frozen = filepath.Join(group, "freezer.state"), "FROZEN", filepath.Join(group, "freezer.state"), "FROZEN\n"
		}
		if group := filepath.Join("/sys/fs/cgroup", f[2]); f[0] == "0" && file == "" {
			if _, err := os.Stat(filepath.Join(group, "cgroup.freeze")); err == nil {
				file, value, state, frozen = filepath.Join(group, "cgroup.freeze"), "1", filepath.Join(group, "cgroup.events"), "frozen 1\n"
			}
		}
	}
	if file == "" {
		t.Fatalf("no freezer in\n%s", b)
	}
	if err := os.WriteFile(file, []byte(value), 0); err != nil {
		t.Fatal(err)
	}
	shimtest.Eventually(t, "the cgroup to stand still", func() bool {
		b, err := os.ReadFile(state)
		return err == nil && strings.Contains(string(b), frozen)
	})
}
