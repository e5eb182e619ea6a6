package shim_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"kontiki/runtime/shim"
	"kontiki/runtime/shim/shimtest"
)

// TestSystemdDriver: where systemd runs the machine, it makes the groups, knows them by upstream's
// names, and knows nothing of them afterwards.
func TestSystemdDriver(t *testing.T) {
	if !shimtest.OnSystemd() {
		t.Skip("needs a machine of its own that systemd runs: make test-cgroup2")
	}
	e := shimtest.New(t)
	info, err := e.Client.Info(e.Context())
	if err != nil {
		t.Fatal(err)
	}
	in := func(pid int, group string) {
		t.Helper()
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if err != nil || !strings.Contains(string(b), ":"+group+"\n") {
			t.Errorf("process %d is in\n%s%v, not in %s", pid, b, err, group)
		}
	}
	in(info.PID, fmt.Sprintf("/system.slice/kontiki-shim-%d.scope", info.PID))
	const slice = "kubepods-burstable-poduid_a.slice"
	e.Sandbox("a")
	spec := e.Spec("a", "c-1.0", "run")
	spec.Resources = shim.Resources{MemoryBytes: 64 << 20, Pids: 50}
	c := e.Run(spec)
	in(c.PID, "/kubepods.slice/kubepods-burstable.slice/"+slice+"/kontiki-c-1.0.scope")
	systemctl := func(args ...string) string {
		t.Helper()
		out, err := exec.CommandContext(e.Context(), "systemctl", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("systemctl %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	if out := systemctl("show", "kontiki-c-1.0.scope", "--property=MemoryMax,MemoryLimit,TasksMax,Slice,ActiveState"); !strings.Contains(out, "=67108864\n") || !strings.Contains(out, "TasksMax=50\n") ||
		!strings.Contains(out, "Slice="+slice+"\n") || !strings.Contains(out, "ActiveState=active\n") {
		t.Errorf("systemd says of the container:\n%s", out)
	}
	// A reload of systemd leaves what it did not make as it likes; this is its own.
	systemctl("daemon-reload")
	if st, err := e.Client.Stats(e.Context(), "c-1.0"); err != nil || st.MemoryLimit != 64<<20 {
		t.Errorf("after a reload of systemd: %+v, %v", st, err)
	}
	if err := e.Client.RemoveSandbox(e.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if left := systemctl("list-units", "--all", "--plain", "--no-legend", "kontiki-c-1.0.scope", slice); strings.TrimSpace(left) != "" {
		t.Errorf("systemd still knows\n%s", left)
	}
	for _, g := range e.Cgroups() {
		if strings.Contains(g, "poduid_a") {
			t.Errorf("a group is left: %s", g)
		}
	}
}
