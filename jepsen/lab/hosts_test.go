package lab

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// received is how many UDP packets programs on the host were given.
func received(t *testing.T, h *Host) int {
	t.Helper()
	var out strings.Builder
	if err := h.Exec(t.Context(), nil, &out, &out, "cat", "/proc/net/snmp"); err != nil {
		t.Fatal(err, out.String())
	}
	var lines [][]string
	for line := range strings.Lines(out.String()) {
		if strings.HasPrefix(line, "Udp:") {
			lines = append(lines, strings.Fields(line))
		}
	}
	for i, name := range lines[0] {
		if name == "InDatagrams" {
			n, err := strconv.Atoi(lines[1][i])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("the kernel counts no datagrams")
	return 0
}

// cgroupProcesses are the processes of the host.
func cgroupProcesses(t *testing.T, h *Host) string {
	t.Helper()
	cgroup, err := h.openCgroup()
	if err != nil {
		t.Fatal(err)
	}
	defer cgroup.Close()
	data, err := os.ReadFile(filepath.Join(cgroup.Name(), "cgroup.procs"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

func TestReaddress(t *testing.T) {
	l := testLab(t, 3)
	startAll(t, l.Hosts()...)
	n1, n2 := l.Hosts()[0], l.Hosts()[1]
	old := map[string]netip.Addr{}
	for _, h := range l.Hosts() {
		old[h.Name] = h.Addr
	}
	if err := l.Readdress(n2); err != nil {
		t.Fatal(err)
	}
	if n1.Addr != old["n1"] || n2.Addr == old["n2"] {
		t.Fatalf("n1 at %s, n2 at %s, which were at %v", n1.Addr, n2.Addr, old)
	}
	if err := l.Readdress(l.Hosts()...); err != nil {
		t.Fatal(err)
	}
	for _, h := range l.Hosts() {
		for _, was := range old {
			if h.Addr == was {
				t.Errorf("%s is at %s, which was in use before", h.Name, h.Addr)
			}
		}
	}
	for _, addr := range []string{n2.Addr.String(), "n2"} {
		if got, want := dial(t, n1, addr), "hello from "+n2.DataDir(); got != want {
			t.Errorf("n1 to %s: %q, want %q", addr, got, want)
		}
	}
	if got := dial(t, n1, old["n2"].String()); strings.HasPrefix(got, "hello") {
		t.Errorf("the old address answers: %q", got)
	}
	// The way out leads through the machine, as before.
	if got := dial(t, n1, l.gateway().String()); !strings.Contains(got, "refused") {
		t.Errorf("n1 to the machine: %q, want a refusal", got)
	}
}

func TestAddAndWipe(t *testing.T) {
	l := testLab(t, 1)
	n1 := l.Hosts()[0]
	n2, err := l.Add()
	if err != nil {
		t.Fatal(err)
	}
	startAll(t, n1, n2)
	if got, want := dial(t, n1, "n2"), "hello from "+n2.DataDir(); got != want {
		t.Errorf("n1 to the added host: %q, want %q", got, want)
	}
	again, err := Open(l.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if len(again.Hosts()) != 2 || again.Hosts()[1].Addr != n2.Addr {
		t.Errorf("found again with hosts %v", again.Hosts())
	}

	kept := filepath.Join(n2.DataDir(), "kept")
	if err := os.WriteFile(kept, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// Something that outlives the node, and a mount: a reboot ends both.
	for _, args := range [][]string{{"sh", "-c", "sleep 1000 >/dev/null 2>&1 &"}, {"mount", "-t", "tmpfs", "none", "/mnt"}} {
		if err := n2.Exec(t.Context(), nil, nil, os.Stderr, args[0], args[1:]...); err != nil {
			t.Fatal(args, err)
		}
	}
	if err := n2.Reboot(); err != nil {
		t.Fatal(err)
	}
	if _, err := n2.Pid(); !errors.Is(err, ErrNotRunning) {
		t.Errorf("after a reboot: %v, want ErrNotRunning", err)
	}
	if _, err := os.Stat(kept); err != nil {
		t.Errorf("the disk after a reboot: %v", err)
	}
	if err := n2.Exec(t.Context(), nil, nil, nil, "mountpoint", "-q", "/mnt"); err == nil {
		t.Error("a mount survived the reboot")
	}
	if left := cgroupProcesses(t, n2); left != "" {
		t.Errorf("processes survived the reboot: %s", left)
	}
	startAll(t, n2)
	if got, want := dial(t, n1, "n2"), "hello from "+n2.DataDir(); got != want {
		t.Errorf("n1 to the rebooted host: %q, want %q", got, want)
	}
	if err := n2.Wipe(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(kept); err == nil {
		t.Error("the disk was not emptied")
	}
	startAll(t, n2)
	if got, want := dial(t, n1, "n2"), "hello from "+n2.DataDir(); got != want {
		t.Errorf("n1 to the wiped host: %q, want %q", got, want)
	}
}
