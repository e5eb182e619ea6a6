package shim_test

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kontiki/runtime/shim"
	"kontiki/runtime/shim/shimtest"
)

// Containers of a sandbox with SharePID see each other's processes; what one
// leaves behind ends with it, and the first process of all is started again.
func TestSharedProcesses(t *testing.T) {
	e := shimtest.New(t)
	spec := shim.SandboxSpec{ID: "a", PodUID: "uid-a", QOS: shim.Burstable, Hostname: "a", SharePID: true}
	if _, err := e.Client.CreateSandbox(e.Context(), spec); err != nil {
		t.Fatal(err)
	}
	c := e.Run(e.Spec("a", "c1", "tick"))
	waitForLine(t, c.IO.Stdout, "tick 1")
	see := e.Run(e.Spec("a", "c2", "processes"))
	e.Wait("c2")
	if got := e.Output(see.IO.Stdout); !strings.Contains(got, "1 /pause pause\n") || !strings.Contains(got, "/probe tick\n") || !strings.Contains(got, "/probe processes\n") {
		t.Errorf("a container sees\n%s", got)
	}
	e.Run(e.Spec("a", "c3", "orphan"))
	e.Wait("c3")
	see = e.Run(e.Spec("a", "c4", "processes"))
	e.Wait("c4")
	if got := e.Output(see.IO.Stdout); strings.Contains(got, "/proc/self/exe run") {
		t.Errorf("what an ended container left behind still runs:\n%s", got)
	}
	before, err := e.Client.State(e.Context(), shim.PauseID("a"))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(before.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if exit := e.Wait("c1"); exit.Code != 137 {
		t.Errorf("with the namespace's first process gone it ended as %+v", exit)
	}
	e.Wait(shim.PauseID("a"))
	if _, err := e.Client.CreateSandbox(e.Context(), spec); err != nil {
		t.Fatal(err)
	}
	e.Run(e.Spec("a", "c5", "run"))
	if err := e.Client.RemoveSandbox(e.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if list, err := e.Client.List(e.Context()); err != nil || len(list) != 0 {
		t.Errorf("left: %+v %v", list, err)
	}
}

func TestJoinedProcesses(t *testing.T) {
	e := shimtest.New(t)
	e.Sandbox("a")
	e.Run(e.Spec("a", "c1", "run"))
	spec := e.Spec("a", "debug", "processes")
	spec.JoinPID = "c1"
	see := e.Run(spec)
	e.Wait("debug")
	if got := e.Output(see.IO.Stdout); !strings.Contains(got, "1 /probe run\n") {
		t.Errorf("it sees\n%s", got)
	}
	if c1, err := e.Client.State(e.Context(), "c1"); err != nil || c1.Status != shim.Running {
		t.Errorf("the one that was joined: %+v %v", c1, err)
	}
	spec = e.Spec("a", "late", "processes")
	spec.JoinPID = "debug"
	if _, err := e.Client.Create(e.Context(), spec); !errors.Is(err, shim.ErrNotRunning) {
		t.Errorf("joining one that has ended: %v", err)
	}
}
