package shim_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kontiki/runtime/shim"
	"kontiki/runtime/shim/shimtest"
)

func TestMain(m *testing.M) {
	if task := os.Getenv(clientVariable); task != "" {
		if err := beClient(task); err != nil {
			println(err.Error())
		}
		os.Exit(1)
	}
	shimtest.Main(m)
}

func TestStartToExitCode(t *testing.T) {
	e := shimtest.New(t)
	e.Sandbox("a")
	spec := e.Spec("a", "c1", "exit", "42")
	spec.Labels = map[string]string{"pod": "web-0"}
	c, err := e.Client.Create(e.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	if c.Status != shim.Created || c.PID == 0 {
		t.Fatalf("after Create: %+v", c)
	}
	if _, err := e.Client.Start(e.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	exit := e.Wait("c1")
	if exit.Code != 42 || exit.Signal != 0 || exit.Unknown || exit.OOMKilled || exit.Labels["pod"] != "web-0" {
		t.Fatalf("exit: %+v", exit)
	}
	// Every call again: nothing changes.
	if again, err := e.Client.Create(e.Context(), spec); err != nil || again.Status != shim.Exited {
		t.Fatalf("Create again: %+v, %v", again, err)
	}
	if again, err := e.Client.Start(e.Context(), "c1"); err != nil || again.Exit.Code != 42 {
		t.Fatalf("Start again: %+v, %v", again, err)
	}
	if err := e.Client.Signal(e.Context(), "c1", unix.SIGTERM); err != nil {
		t.Fatalf("Signal to what has exited: %v", err)
	}
	spec.Args = []string{"/probe", "exit", "1"}
	if _, err := e.Client.Create(e.Context(), spec); !errors.Is(err, shim.ErrConflict) {
		t.Fatalf("Create of another under the same id: %v", err)
	}
	if err := e.Client.Acknowledge(e.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	if st, err := e.Client.State(e.Context(), "c1"); err != nil || st.Exit == nil || st.Exit.Code != 42 {
		t.Fatalf("State after Acknowledge: %+v, %v", st, err)
	}
	for range 2 {
		if err := e.Client.Delete(e.Context(), "c1"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := e.Client.State(e.Context(), "c1"); !errors.Is(err, shim.ErrNotFound) {
		t.Fatalf("State after Delete: %v", err)
	}
}

// TestTheShimIsSealed: libcontainer would otherwise make a copy of it for each process that it starts.
func TestTheShimIsSealed(t *testing.T) {
	e := shimtest.New(t)
	sealed(t, e)
}

func sealed(t *testing.T, e *shimtest.Env) {
	t.Helper()
	info, err := e.Client.Info(e.Context())
	if err != nil {
		t.Fatal(err)
	}
	proc := "/proc/" + itoa(info.PID)
	exe, err := os.Open(proc + "/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer exe.Close()
	const all = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if seals, err := unix.FcntlInt(exe.Fd(), unix.F_GET_SEALS, 0); err != nil || seals&all != all {
		t.Errorf("the shim's program has seals %#x, %v", seals, err)
	}
	if name, err := os.ReadFile(proc + "/comm"); err != nil || string(name) != "kontiki-shim\n" {
		t.Errorf("the shim is called %q, %v", name, err)
	}
}

func TestOutputAndEOF(t *testing.T) {
	e := shimtest.New(t)
	e.Sandbox("a")
	c := e.Run(e.Spec("a", "c1", "say", "hello"))
	e.Wait("c1")
	// Read after the end: the pipe kept it.
	if got := e.Output(c.IO.Stdout); got != "out hello\n" {
		t.Errorf("stdout: %q", got)
	}
	if got := e.Output(c.IO.Stderr); got != "err hello\n" {
		t.Errorf("stderr: %q", got)
	}
}

func TestStdin(t *testing.T) {
	e := shimtest.New(t)
	e.Sandbox("a")
	spec := e.Spec("a", "c1", "cat")
	spec.Stdin = true
	c := e.Run(spec)
	for _, text := range []string{"one\n", "two\n"} { // a client that comes and goes
		f, err := os.OpenFile(c.IO.Stdin, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		f.WriteString(text)
		f.Close()
	}
	if err := e.Client.CloseStdin(e.Context(), "c1"); err != nil {
		t.Fatal(err)
	}
	if got := e.Output(c.IO.Stdout); got != "one\ntwo\n" {
		t.Errorf("stdout: %q", got)
	}
	if exit := e.Wait("c1"); exit.Code != 0 {
		t.Errorf("exit: %+v", exit)
	}
}

func TestSignals(t *testing.T) {
	e := shimtest.New(t)
	e.Sandbox("a")
	for _, tc := range []struct {
		program      string
		signal       unix.Signal
		code, killer int
	}{
		{"term", unix.SIGTERM, 7, 0},
		{"stubborn", unix.SIGKILL, 137, 9},
	} {
		c := e.Run(e.Spec("a", tc.program, tc.program))
		waitForLine(t, c.IO.Stdout, "ready")
		if err := e.Client.Signal(e.Context(), tc.program, tc.signal); err != nil {
			t.Fatal(err)
		}
		if exit := e.Wait(tc.program); exit.Code != tc.code || exit.Signal != tc.killer {
			t.Errorf("%s: %+v", tc.program, exit)
		}
	}
}

func waitForLine(t *testing.T, path, line string) {
	t.Helper()
	f, err := shim.OpenOutput(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var have strings.Builder
	buf := make([]byte, 4096)
	for !strings.Contains(have.String(), line+"\n") {
		n, err := f.Read(buf)
		if err != nil {
			t.Fatalf("wait for line %q in %s: %v, have %q", line, path, err, have.String())
		}
		have.Write(buf[:n])
	}
}

func TestOOM(t *testing.T) {
	e := shimtest.New(t)
	e.Sandbox("a")
	spec := e.Spec("a", "c1", "eat")
	spec.Resources.MemoryBytes = 32 << 20
	e.Run(spec)
	if exit := e.Wait("c1"); !exit.OOMKilled || exit.Signal != 9 {
		t.Fatalf("exit: %+v", exit)
	}
}

func TestProcessAttributes(t *testing.T) {
	e := shimtest.New(t)
	e.Sandbox("a")
	run := func(spec shim.ContainerSpec) (string, shim.Exit) {
		c := e.Run(spec)
		exit := e.Wait(spec.ID)
		return e.Output(c.IO.Stdout), exit
	}
	spec := e.Spec("a", "who", "who")
	spec.User = shim.User{UID: 1000, GID: 1001, AdditionalGroups: []uint32{2000}}
	spec.Env = append(spec.Env, "A=b=c")
	spec.Cwd = "/tmp/made"
	got, _ := run(spec)
	for _, want := range []string{"uid=1000 gid=1001", "2000", "host=a ", "cwd=/tmp/made", "pid=1 ", `"A=b=c"`} {
		if !strings.Contains(got, want) {
			t.Errorf("%q lacks %q", got, want)
		}
	}
	if got, exit := run(e.Spec("a", "seccomp", "unshare")); exit.Code != 1 || !strings.Contains(got, "not permitted") {
		t.Errorf("a forbidden system call: %q, %+v", got, exit)
	}
	held := e.Run(e.Spec("a", "held", "run"))
	for _, args := range [][]string{{"unshare"}, {"mount", "/tmp"}} {
		if exit, got, err := e.Client.ExecSync(e.Context(), held.ID, shim.ExecSpec{Args: append([]string{"/probe"}, args...), Capabilities: []string{"CAP_SYS_ADMIN"}}, 1<<10); err != nil || exit.Code != 1 || !strings.Contains(string(got), "not permitted") {
			t.Errorf("a forbidden system call of an exec, %v: %q, %+v, %v", args, got, exit, err)
		}
	}
	// The kernel drops the upper half of a family's register; the filter must not look at it either.
	for family, code := range map[string]int{"2": 0, "0x100000002": 0, "40": 1, "0x100000028": 1} {
		exit, got, err := e.Client.ExecSync(e.Context(), held.ID, shim.ExecSpec{Args: []string{"/probe", "socket", family}}, 1<<10)
		if err != nil || exit.Code != code || code != 0 && !strings.Contains(string(got), "not permitted") {
			t.Errorf("a socket of family %s: %q, %+v, %v", family, got, exit, err)
		}
	}
	// Both halves of the filter are there, and what they came by is not.
	if exit, got, err := e.Client.ExecSync(e.Context(), held.ID, shim.ExecSpec{Args: []string{"/probe", "file", "/proc/self/status"}}, 1<<12); err != nil || exit.Code != 0 ||
		strings.Contains(string(got), "Seccomp_filters:") && !strings.Contains(string(got), "Seccomp_filters:\t2\n") {
		t.Errorf("an exec's status: %q, %+v, %v", got, exit, err)
	}
	if got, exit := run(e.Spec("a", "descriptors", "descriptors")); exit.Code != 0 || strings.Contains(got, "memfd") {
		t.Errorf("a container's descriptors: %q, %+v", got, exit)
	}
	spec = e.Spec("a", "free", "unshare")
	spec.Seccomp = shim.SeccompUnconfined
	if got, exit := run(spec); strings.Contains(got, "not permitted") {
		t.Errorf("the same unconfined: %q, %+v", got, exit)
	}
	spec = e.Spec("a", "ro", "write", "/tmp/x", "text")
	spec.ReadonlyRootfs = true
	if got, exit := run(spec); exit.Code != 1 || !strings.Contains(got, "read-only") {
		t.Errorf("write to a read-only root: %q, %+v", got, exit)
	}
	spec = e.Spec("a", "status", "file", "/proc/self/status")
	spec.NoNewPrivileges = true
	spec.Capabilities = []string{"CAP_CHOWN"}
	got, _ = run(spec)
	for _, want := range []string{"NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000001", "SigIgn:\t0000000000000000", "SigBlk:\t0000000000000000"} {
		if !strings.Contains(got, want) {
			t.Errorf("/proc/self/status lacks %q:\n%s", want, got)
		}
	}
}

// TestAnInitStageWithoutItsFilterEnds: what is executed as one, and was not given what a shim gives, makes no container.
func TestAnInitStageWithoutItsFilterEnds(t *testing.T) {
	cmd := exec.Command(shimtest.Program(t), "init")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 255 || !strings.Contains(string(out), "descriptor 3 is not the file of the seccomp filter") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestMounts(t *testing.T) {
	e := shimtest.New(t)
	e.Sandbox("a")
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/f", []byte("from outside"), 0o644); err != nil {
		t.Fatal(err)
	}
	spec := e.Spec("a", "bind", "file", "/data/f")
	spec.Mounts = []shim.Mount{{Type: shim.MountBind, Source: dir, Destination: "/data", ReadOnly: true}}
	c := e.Run(spec)
	if got := e.Output(c.IO.Stdout); got != "from outside" {
		t.Errorf("bind mount: %q", got)
	}
	spec = e.Spec("a", "bindro", "write", "/data/f", "no")
	spec.Mounts = []shim.Mount{{Type: shim.MountBind, Source: dir, Destination: "/data", ReadOnly: true}}
	c = e.Run(spec)
	if got := e.Output(c.IO.Stdout); !strings.Contains(got, "read-only") {
		t.Errorf("write to a read-only mount: %q", got)
	}
	// /dev/shm is the pod's, not the container's.
	e.Run(e.Spec("a", "shm1", "write", "/dev/shm/x", "shared"))
	e.Wait("shm1")
	c = e.Run(e.Spec("a", "shm2", "file", "/dev/shm/x"))
	if got := e.Output(c.IO.Stdout); got != "shared" {
		t.Errorf("/dev/shm: %q", got)
	}
	c = e.Run(e.Spec("a", "mounts", "file", "/proc/mounts"))
	got := e.Output(c.IO.Stdout)
	for _, want := range []string{" /proc proc ", " /dev tmpfs ", " /dev/pts devpts ", " /dev/mqueue mqueue ", " /sys sysfs ro", "/proc/timer_list", "/proc/sys proc ro"} {
		if !strings.Contains(got, want) {
			t.Errorf("/proc/mounts lacks %q:\n%s", want, got)
		}
	}
}

func TestWrongSpecifications(t *testing.T) {
	e := shimtest.New(t)
	e.Sandbox("a")
	for name, tc := range map[string]struct {
		change func(*shim.ContainerSpec)
		want   error
	}{
		"id":       {func(s *shim.ContainerSpec) { s.ID = "../x" }, shim.ErrInvalid},
		"args":     {func(s *shim.ContainerSpec) { s.Args = nil }, shim.ErrInvalid},
		"rootfs":   {func(s *shim.ContainerSpec) { s.Rootfs = "relative" }, shim.ErrInvalid},
		"sandbox":  {func(s *shim.ContainerSpec) { s.SandboxID = "none" }, shim.ErrNotFound},
		"mount":    {func(s *shim.ContainerSpec) { s.Mounts = []shim.Mount{{Type: "ext4", Destination: "/x"}} }, shim.ErrInvalid},
		"seccomp":  {func(s *shim.ContainerSpec) { s.Seccomp = "mine" }, shim.ErrInvalid},
		"program":  {func(s *shim.ContainerSpec) { s.Args = []string{"/no-such-program"} }, nil},
		"no root":  {func(s *shim.ContainerSpec) { s.Rootfs = "/nonexistent" }, nil},
		"too tiny": {func(s *shim.ContainerSpec) { s.Resources.MemoryBytes = 4096 }, nil},
	} {
		spec := e.Spec("a", "c-"+strings.ReplaceAll(name, " ", ""), "exit", "0")
		tc.change(&spec)
		_, err := e.Client.Create(e.Context(), spec)
		if err == nil || tc.want != nil && !errors.Is(err, tc.want) {
			t.Errorf("%s: %v", name, err)
		}
		t.Logf("%s: %v", name, err)
	}
	if list, err := e.Client.List(e.Context()); err != nil || len(list) != 0 {
		t.Errorf("left: %+v, %v", list, err)
	}
	for _, g := range e.Cgroups() {
		if strings.Contains(g, "/c-") {
			t.Errorf("left: %s", g)
		}
	}
}

func TestDeleteLeavesNothing(t *testing.T) {
	e := shimtest.New(t)
	e.Sandbox("a")
	c := e.Run(e.Spec("a", "c1", "run"))
	h := e.Spec("a", "c2", "orphan")
	h.HostPID = true
	e.Run(h)
	e.Wait("c2")
	if err := e.Client.RemoveSandbox(e.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if shimtest.Alive(c.PID) {
		t.Errorf("process %d lives", c.PID)
	}
	for _, g := range e.Cgroups() {
		if strings.Contains(g, "pod") && !strings.HasSuffix(g, "kubepods") && !strings.HasSuffix(g, "kubepods/burstable") {
			t.Errorf("left: %s", g)
		}
	}
	if m := shimtest.MountsBelow(e.Dir); len(m) != 0 {
		t.Errorf("left mounts: %v", m)
	}
	for _, d := range []string{"sandboxes", "containers", "exits", "state"} {
		if left, err := os.ReadDir(e.Config.Dir + "/" + d); err != nil || len(left) != 0 {
			t.Errorf("left in %s: %v, %v", d, left, err)
		}
	}
	if err := e.Client.RemoveSandbox(e.Context(), "a"); err != nil {
		t.Errorf("remove again: %v", err)
	}
	info, err := e.Client.Info(e.Context())
	if err != nil {
		t.Fatal(err)
	}
	shimtest.Eventually(t, "the shim to have no children", func() bool { return len(children(t, info.PID)) == 0 })
}

func children(t *testing.T, pid int) []string {
	t.Helper()
	var out []string
	tasks, err := os.ReadDir("/proc/" + itoa(pid) + "/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		b, _ := os.ReadFile("/proc/" + itoa(pid) + "/task/" + task.Name() + "/children")
		out = append(out, strings.Fields(string(b))...)
	}
	return out
}

func TestExitsWaitIsCancelled(t *testing.T) {
	e := shimtest.New(t)
	ctx, cancel := context.WithCancel(e.Context())
	done := make(chan error, 1)
	go func() {
		_, _, err := e.Client.Exits(ctx, shim.Cursor{})
		done <- err
	}()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

func TestStats(t *testing.T) {
	e := shimtest.New(t)
	e.Sandbox("a")
	spec := e.Spec("a", "c1", "tick")
	spec.Resources = shim.Resources{MemoryBytes: 64 << 20, Pids: 50, CPUShares: 512, CPUQuota: 50_000}
	c := e.Run(spec)
	waitForLine(t, c.IO.Stdout, "tick 3")
	st, err := e.Client.Stats(e.Context(), "c1")
	if err != nil {
		t.Fatal(err)
	}
	if st.CPUNanos == 0 || st.MemoryUsage == 0 || st.MemoryRSS == 0 || st.MemoryWorkingSet == 0 || st.Pids == 0 || st.MemoryLimit != 64<<20 {
		t.Errorf("stats: %+v", st)
	}
	if err := e.Client.Update(e.Context(), "c1", shim.Resources{MemoryBytes: 96 << 20}); err != nil {
		t.Fatal(err)
	}
	if st, err = e.Client.Stats(e.Context(), "c1"); err != nil || st.MemoryLimit != 96<<20 {
		t.Errorf("after Update: %+v, %v", st, err)
	}
}

func TestUsage(t *testing.T) {
	e := shimtest.New(t)
	e.Sandbox("a")
	e.Sandbox("idle")
	c := e.Run(e.Spec("a", "c1", "tick"))
	waitForLine(t, c.IO.Stdout, "tick 3")
	e.Run(e.Spec("a", "c2", "exit", "0"))
	e.Wait("c2")
	u, err := e.Client.Usage(e.Context())
	if err != nil {
		t.Fatal(err)
	}
	one, pod := u.Containers["c1"], u.Sandboxes["a"]
	if one.CPUNanos == 0 || one.MemoryUsage == 0 || pod.CPUNanos < one.CPUNanos || pod.MemoryUsage < one.MemoryUsage {
		t.Errorf("container %+v, its pod %+v", one, pod)
	}
	if u.Pods.CPUNanos < pod.CPUNanos || u.Machine.CPUNanos < u.Pods.CPUNanos || u.Machine.MemoryUsage == 0 || u.Shim.Pids == 0 && u.Shim.MemoryUsage == 0 {
		t.Errorf("machine %+v, pods %+v, shim %+v", u.Machine, u.Pods, u.Shim)
	}
	if _, there := u.Containers["c2"]; there || len(u.Sandboxes) != 2 {
		t.Errorf("containers %v, sandboxes %v: what has ended uses nothing", u.Containers, u.Sandboxes)
	}
}
