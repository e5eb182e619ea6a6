package shim_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kontiki/runtime/shim"
	"kontiki/runtime/shim/shimtest"
)

func TestSandbox(t *testing.T) {
	e := shimtest.New(t)
	spec := shim.SandboxSpec{ID: "a", PodUID: "a", QOS: shim.Burstable, Hostname: "web-0",
		Sysctls: map[string]string{"net.ipv4.ip_local_port_range": "20000 21000"}, Labels: map[string]string{"pod": "web-0"}}
	sb, err := e.Client.CreateSandbox(e.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	again, err := e.Client.CreateSandbox(e.Context(), spec)
	if err != nil || again.NetNS != sb.NetNS || !again.Created.Equal(sb.Created) {
		t.Errorf("again: %+v, %v", again, err)
	}
	var own, mine unix.Stat_t
	if unix.Stat(sb.NetNS, &own) != nil || unix.Stat("/proc/self/ns/net", &mine) != nil || own.Ino == mine.Ino {
		t.Errorf("network namespaces: %d, ours %d", own.Ino, mine.Ino)
	}
	other := spec
	other.Hostname = "web-1"
	if _, err := e.Client.CreateSandbox(e.Context(), other); !errors.Is(err, shim.ErrConflict) {
		t.Errorf("another under the same id: %v", err)
	}
	other.ID, other.Sysctls = "b", map[string]string{"vm.swappiness": "1"}
	if _, err := e.Client.CreateSandbox(e.Context(), other); !errors.Is(err, shim.ErrInvalid) {
		t.Errorf("a sysctl of the host: %v", err)
	}
	for file, want := range map[string]string{
		"/proc/sys/net/ipv4/ip_local_port_range": "20000\t21000",
		"/proc/sys/kernel/hostname":              "web-0",
		"/proc/net/fib_trie":                     "127.0.0.1", // lo is up
	} {
		c := e.Run(e.Spec("a", "c"+strings.ReplaceAll(file, "/", "_"), "file", file))
		if got := e.Output(c.IO.Stdout); !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", file, got, want)
		}
	}
	// Lost, as by a reboot: told, and made anew with the same specification.
	e.KillShim()
	if err := unix.Unmount(sb.NetNS, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if list, err := e.Client.ListSandboxes(e.Context()); err != nil || len(list) != 1 || !list[0].Lost || list[0].Labels["pod"] != "web-0" {
		t.Errorf("%+v, %v", list, err)
	}
	if _, err := e.Client.CreateSandbox(e.Context(), spec); err != nil {
		t.Fatal(err)
	}
	if list, err := e.Client.ListSandboxes(e.Context()); err != nil || len(list) != 1 || list[0].Lost {
		t.Errorf("%+v, %v", list, err)
	}
}

func TestHostNetwork(t *testing.T) {
	e := shimtest.New(t)
	sb, err := e.Client.CreateSandbox(e.Context(), shim.SandboxSpec{ID: "h", PodUID: "h", QOS: shim.Guaranteed, HostNetwork: true})
	if err != nil || sb.NetNS != "" {
		t.Fatal(sb, err)
	}
	c := e.Run(e.Spec("h", "c1", "who"))
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if got := e.Output(c.IO.Stdout); !strings.Contains(got, "host="+host+" ") {
		t.Errorf("%q is not on %s", got, host)
	}
	var theirs, ours unix.Stat_t
	c = e.Run(e.Spec("h", "c2", "run"))
	if unix.Stat("/proc/"+itoa(c.PID)+"/ns/net", &theirs) != nil || unix.Stat("/proc/self/ns/net", &ours) != nil || theirs.Ino != ours.Ino {
		t.Errorf("network namespaces: %d, ours %d", theirs.Ino, ours.Ino)
	}
}
