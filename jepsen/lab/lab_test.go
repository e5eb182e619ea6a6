package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// TestMain lets the test binary stand for the program on a host: as "node" it
// runs until it is killed, as "dial" it says whether an address answers.
func TestMain(m *testing.M) {
	switch arg := os.Args[min(1, len(os.Args)-1)]; arg {
	case "node":
		listener, err := net.Listen("tcp", ":6443")
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("listening")
		for {
			conn, err := listener.Accept()
			if err != nil {
				os.Exit(1)
			}
			fmt.Fprint(conn, "hello from ", os.Getenv("KONTIKI_DATA_DIR"))
			conn.Close()
		}
	case "dial":
		conn, err := net.Dial("tcp", os.Args[2])
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		io.Copy(os.Stdout, conn)
	default:
		os.Exit(m.Run())
	}
}

func testLab(t *testing.T, n int) *Lab {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: a lab makes network and mount namespaces")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Name: "labtest", Root: filepath.Join(t.TempDir(), "labs"), Binary: self}
	l, err := Create(cfg, n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Down(cfg); err != nil {
			t.Error(err)
		}
		nothingLeft(t, l)
	})
	return l
}

func nothingLeft(t *testing.T, l *Lab) {
	t.Helper()
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if name := link.Attrs().Name; name == l.bridge() || strings.HasPrefix(name, (&Host{lab: l}).port()) {
			t.Errorf("link %s is left", name)
		}
	}
	roots, err := hierarchies()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range append(roots, l.dir(), l.pins()) {
		if path != l.dir() && path != l.pins() {
			path = filepath.Join(path, l.cgroup())
		}
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s is left", path)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), l.pins()) {
		t.Error("a mount is left:\n" + string(mounts))
	}
}

func dial(t *testing.T, from *Host, addr string) string {
	t.Helper()
	self, _ := os.Executable()
	var out bytes.Buffer
	if err := from.Exec(t.Context(), nil, &out, &out, self, "dial", addr); err != nil {
		return fmt.Sprint(err, " ", out.String())
	}
	return out.String()
}

func TestHostsReachEachOtherAndTheMachineReachesThem(t *testing.T) {
	l := testLab(t, 2)
	n1, n2 := l.Hosts()[0], l.Hosts()[1]
	for _, h := range l.Hosts() {
		if err := h.Start(); err != nil {
			t.Fatal(err)
		}
		waitFor(t, h.Name+" to listen", func() bool {
			log, _ := os.ReadFile(h.LogPath())
			return bytes.Contains(log, []byte("listening"))
		})
	}
	if got, want := dial(t, n1, n2.Addr.String()+":6443"), "hello from "+n2.DataDir(); got != want {
		t.Errorf("n1 to n2: %q, want %q", got, want)
	}
	conn, err := net.Dial("tcp", n1.Addr.String()+":6443")
	if err != nil {
		t.Fatalf("machine to n1: %v", err)
	}
	conn.Close()

	if err := n2.Signal(t.Context(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := n2.Pid(); !errors.Is(err, ErrNotRunning) {
		t.Errorf("after SIGKILL: %v, want ErrNotRunning", err)
	}
	if err := n2.Start(); err != nil {
		t.Errorf("start again: %v", err)
	}
	if err := n2.Start(); err == nil {
		t.Error("a second node started on one host")
	}
}

func TestLabIsFoundAgain(t *testing.T) {
	l := testLab(t, 1)
	if _, err := Create(l.cfg, 1); err == nil || !strings.Contains(err.Error(), "lab down") {
		t.Errorf("a second lab of the name: %v, want an error that says how to remove the first", err)
	}
	again, err := Open(l.cfg)
	if err != nil {
		t.Fatal(err)
	}
	if got := again.Hosts()[0]; got.Addr != l.Hosts()[0].Addr {
		t.Errorf("found again with address %s, made with %s", got.Addr, l.Hosts()[0].Addr)
	}
}

func TestDownAfterCrash(t *testing.T) {
	l := testLab(t, 2)
	if err := l.Hosts()[0].Start(); err != nil {
		t.Fatal(err)
	}
	// As if the process that made the lab had died before writing anything down.
	if err := os.RemoveAll(l.dir()); err != nil {
		t.Fatal(err)
	}
	if err := Down(l.cfg); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, l)
	if err := Down(l.cfg); err != nil {
		t.Fatalf("down of what is down: %v", err)
	}
}

func TestBadNamesAreRefused(t *testing.T) {
	for _, name := range []string{"Big", "a-b", "ninechars", "../x"} {
		if _, err := Open(Config{Name: name}); err == nil || errors.Is(err, ErrNoLab) {
			t.Errorf("name %q: %v, want a refusal", name, err)
		}
	}
}

// waitFor waits for a condition, bounded.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for !ok() {
		if err := pause(ctx, what); err != nil {
			t.Fatal(err)
		}
	}
}
