package shim_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"kontiki/runtime/shim"
	"kontiki/runtime/shim/shimtest"
)

func running(t *testing.T, e *shimtest.Env, id string) shim.Container {
	t.Helper()
	e.Sandbox("a")
	c := e.Run(e.Spec("a", id, "term"))
	waitForLine(t, c.IO.Stdout, "ready")
	return c
}

func TestExec(t *testing.T) {
	e := shimtest.New(t)
	running(t, e, "c1")
	in, inW, _ := os.Pipe()
	outR, out, _ := os.Pipe()
	spec := shim.ExecSpec{Args: []string{"/probe", "cat"}}
	id, console, err := e.Client.Exec(e.Context(), "c1", spec, shim.Stdio{Stdin: in, Stdout: out})
	if err != nil || console != nil {
		t.Fatal(console, err)
	}
	in.Close()
	out.Close()
	io.WriteString(inW, "through the container")
	inW.Close()
	got, err := io.ReadAll(outR)
	if err != nil || string(got) != "through the container" {
		t.Fatalf("%q, %v", got, err)
	}
	for range 2 {
		exit, err := e.Client.WaitExec(e.Context(), "c1", id)
		if err != nil || exit.Code != 0 {
			t.Fatalf("%+v, %v", exit, err)
		}
	}
	if _, _, err := e.Client.Exec(e.Context(), "c1", shim.ExecSpec{ID: id, Args: spec.Args}, shim.Stdio{}); !errors.Is(err, shim.ErrConflict) {
		t.Errorf("exec with the same id: %v", err)
	}
	if _, err := e.Client.WaitExec(e.Context(), "c1", "none"); !errors.Is(err, shim.ErrNotFound) {
		t.Errorf("wait for an unknown exec: %v", err)
	}
	if _, _, err := e.Client.Exec(e.Context(), "c1", shim.ExecSpec{Args: []string{"/nothing"}}, shim.Stdio{}); err == nil {
		t.Error("exec of a missing program succeeded")
	}
}

func TestExecSync(t *testing.T) {
	e := shimtest.New(t)
	running(t, e, "c1")
	exit, output, err := e.Client.ExecSync(e.Context(), "c1", shim.ExecSpec{Args: []string{"/probe", "say", "hi"}}, 1<<10)
	if err != nil || exit.Code != 0 || !strings.Contains(string(output), "out hi\n") || !strings.Contains(string(output), "err hi\n") {
		t.Fatalf("%+v, %q, %v", exit, output, err)
	}
	if exit, _, err := e.Client.ExecSync(e.Context(), "c1", shim.ExecSpec{Args: []string{"/probe", "exit", "9"}}, 1<<10); err != nil || exit.Code != 9 {
		t.Fatalf("%+v, %v", exit, err)
	}
	if _, output, err := e.Client.ExecSync(e.Context(), "c1", shim.ExecSpec{Args: []string{"/probe", "say", strings.Repeat("x", 5000)}}, 100); err != nil || len(output) != 100 {
		t.Fatalf("%d bytes, %v", len(output), err)
	}
}

func TestExecSyncKillsAtItsDeadline(t *testing.T) {
	e := shimtest.New(t)
	c := running(t, e, "c1")
	ctx, cancel := withTimeout(e, 300*time.Millisecond)
	defer cancel()
	_, _, err := e.Client.ExecSync(ctx, "c1", shim.ExecSpec{ID: "slow", Args: []string{"/probe", "stubborn"}}, 100)
	if !errors.Is(err, ctx.Err()) || ctx.Err() == nil {
		t.Fatalf("%v", err)
	}
	exit, err := e.Client.WaitExec(e.Context(), "c1", "slow")
	if err != nil || exit.Signal != 9 {
		t.Fatalf("%+v, %v", exit, err)
	}
	if !shimtest.Alive(c.PID) {
		t.Error("the container is gone, too")
	}
}

func TestExecTerminal(t *testing.T) {
	e := shimtest.New(t)
	running(t, e, "c1")
	id, console, err := e.Client.Exec(e.Context(), "c1", shim.ExecSpec{Args: []string{"/probe", "lines"}, Tty: true, Width: 80, Height: 24}, shim.Stdio{})
	if err != nil {
		t.Fatal(err)
	}
	defer console.Close()
	if err := shim.Resize(console, 120, 40); err != nil {
		t.Fatal(err)
	}
	io.WriteString(console, "hello\n")
	readUntil(t, console, "got hello")
	io.WriteString(console, "bye\n")
	if exit, err := e.Client.WaitExec(e.Context(), "c1", id); err != nil || exit.Code != 0 {
		t.Fatalf("%+v, %v", exit, err)
	}
}

func readUntil(t *testing.T, f *os.File, want string) {
	t.Helper()
	f.SetReadDeadline(time.Now().Add(shimtest.Patience))
	var have bytes.Buffer
	buf := make([]byte, 1024)
	for !strings.Contains(have.String(), want) {
		n, err := f.Read(buf)
		if err != nil {
			t.Fatalf("wait for %q: %v, have %q", want, err, have.String())
		}
		have.Write(buf[:n])
	}
}

func TestContainerTerminalSurvivesTheShim(t *testing.T) {
	e := shimtest.New(t)
	e.Sandbox("a")
	spec := e.Spec("a", "c1", "lines")
	spec.Tty, spec.Stdin = true, true
	c := e.Run(spec)
	console, err := e.Client.Console(e.Context(), "c1")
	if err != nil {
		t.Fatal(err)
	}
	defer console.Close()
	io.WriteString(console, "one\n")
	readUntil(t, console, "got one")
	e.KillShim()
	if _, err := e.Client.Console(e.Context(), "c1"); !errors.Is(err, shim.ErrNotFound) {
		t.Fatalf("a terminal that only we hold: %v", err)
	}
	if err := e.Client.RestoreConsole(e.Context(), "c1", console); err != nil {
		t.Fatal(err)
	}
	again, err := e.Client.Console(e.Context(), "c1")
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	io.WriteString(again, "two\n")
	readUntil(t, again, "got two")
	if !shimtest.Alive(c.PID) {
		t.Error("the container ended")
	}
}

func TestManyAtOnce(t *testing.T) {
	e := shimtest.New(t)
	const n = 12
	errs := make(chan error, n)
	specs := make([]shim.ContainerSpec, n)
	for i := range specs {
		name := string(rune('a' + i))
		specs[i] = e.Spec("s"+name, "c"+name, "exit", "5")
	}
	ctx := e.Context()
	for _, spec := range specs {
		go func() {
			errs <- func() error {
				if _, err := e.Client.CreateSandbox(ctx, shim.SandboxSpec{ID: spec.SandboxID, PodUID: spec.SandboxID, QOS: shim.BestEffort}); err != nil {
					return err
				}
				if _, err := e.Client.Create(ctx, spec); err != nil {
					return err
				}
				_, err := e.Client.Start(ctx, spec.ID)
				return err
			}()
		}()
	}
	for range specs {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	for _, spec := range specs {
		if exit := e.Wait(spec.ID); exit.Code != 5 {
			t.Errorf("%+v", exit)
		}
	}
	for _, spec := range specs {
		go func() { errs <- e.Client.RemoveSandbox(ctx, spec.SandboxID) }()
	}
	for range specs {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	info, _ := e.Client.Info(ctx)
	threads, _ := os.ReadDir("/proc/" + itoa(info.PID) + "/task")
	t.Logf("threads of the shim: %d", len(threads))
}
