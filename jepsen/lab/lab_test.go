package lab

import (
	"bufio"
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

	"kontiki/internal/dump"
)

// TestMain lets the test binary stand for the program on a host: as "node" it
// runs until it is killed, as "dial" and "echo" it says what an address answers,
// as "create" it makes a lab.
func TestMain(m *testing.M) {
	if len(os.Args) < 2 || strings.HasPrefix(os.Args[1], "-") {
		os.Exit(m.Run())
	}
	act := map[string]func(args []string) error{"node": playNode, "dial": playDial, "echo": playEcho, "create": playCreate}[os.Args[1]]
	if err := act(os.Args[2:]); err != nil {
		fmt.Println(err)
		os.Exit(1)
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
	return makeLab(t, Config{Name: "labtest", Root: filepath.Join(t.TempDir(), "labs"), Binary: self}, n)
}

func makeLab(t *testing.T, cfg Config, n int) *Lab {
	t.Helper()
	if err := Down(cfg); err != nil { // of a run that was cut off
		t.Fatal(err)
	}
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
	links, err := dump.All(netlink.LinkList)
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

// startAll starts every host's node and waits until it listens.
func startAll(t *testing.T, hosts ...*Host) {
	t.Helper()
	for _, h := range hosts {
		os.Remove(h.LogPath())
		if err := h.Start(); err != nil {
			t.Fatal(err)
		}
		waitFor(t, h.Name+" to listen", func() bool {
			log, _ := os.ReadFile(h.LogPath())
			return bytes.Contains(log, []byte("listening"))
		})
	}
}

func TestHostsReachEachOtherAndTheMachineReachesThem(t *testing.T) {
	l := testLab(t, 2)
	n1, n2 := l.Hosts()[0], l.Hosts()[1]
	startAll(t, n1, n2)
	for _, addr := range []string{n2.Addr.String(), "n2"} {
		if got, want := dial(t, n1, addr), "hello from "+n2.DataDir(); got != want {
			t.Errorf("n1 to %s: %q, want %q", addr, got, want)
		}
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

// TestCommandIsToldToEnd: who interrupts a command on a host leaves it time for its last words.
func TestCommandIsToldToEnd(t *testing.T) {
	h := testLab(t, 1).Hosts()[0]
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	said, out := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := h.Exec(ctx, nil, out, os.Stderr, "sh", "-c", `trap 'echo bye; exit' TERM; echo here; while :; do sleep 0.01; done`)
		out.Close()
		ended <- err
	}()
	lines := bufio.NewScanner(said)
	for lines.Scan() && lines.Text() == "here" {
		cancel()
	}
	if lines.Text() != "bye" {
		t.Errorf("it said at last %q, want bye", lines.Text())
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("an interrupted command: %v", err)
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
