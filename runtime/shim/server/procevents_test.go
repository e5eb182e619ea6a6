package server

import (
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// How a process ended is told to who is not its parent, also after it was reaped; not before
// it has, and once only.
func TestProcEvents(t *testing.T) {
	socket, err := listenForExits()
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.EPROTONOSUPPORT) {
		t.Skipf("needs root in the first network namespace, and a kernel that tells of processes: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	socket.Close()
	events := newProcEvents(slog.Default())
	for _, end := range []struct {
		script string
		want   unix.WaitStatus
	}{{"read x; exit 7", 7 << 8}, {"read x; kill -9 $$", 9}, {"read x; (exit 3); exit 0", 0}} {
		cmd := exec.Command("sh", "-c", end.script)
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		events.expect(cmd.Process.Pid)
		if _, err := stdin.Write([]byte("\n")); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		if got, ok := events.status(cmd.Process.Pid); !ok || got != end.want {
			t.Errorf("%s: %#x, %v", end.script, got, ok)
		}
		events.forget(cmd.Process.Pid)
	}
	if _, ok := events.status(os.Getpid()); ok || events.socket != nil {
		t.Error("events are told, or listened to, which nobody expects")
	}
}
