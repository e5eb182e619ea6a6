// Package shimtest gives tests a real shim in a folder and a cgroup tree of
// their own, and a program to put into containers. It is for tests only.
//
// Each Env removes everything it made when its test ends, whatever the test
// did, and New also removes what a crashed earlier run left.
package shimtest

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kontiki/runtime/shim"
)

// Patience is how long tests wait for what must happen: 30 s, or what patienceVariable says on a machine that
// is known to be slow.
var Patience = patience()

const patienceVariable = "KONTIKI_TEST_PATIENCE"

func patience() time.Duration {
	s := os.Getenv(patienceVariable)
	if s == "" {
		return 30 * time.Second
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		panic(patienceVariable + ": " + err.Error())
	}
	return d
}

// builtVariable names a folder that holds kontiki-shim and probe, where there is no compiler.
const builtVariable = "KONTIKI_TEST_PROGRAMS"

var programs struct {
	sync.Mutex
	dir   string // to be removed
	built string // where probe is
	shim  string
	err   error
}

// systemdVariable, when it is set, says that this machine is the tests' own and run by systemd: Envs have
// the hierarchy's root, and so systemd's driver. Tests are then run one at a time.
const systemdVariable = "KONTIKI_TEST_SYSTEMD"

// OnSystemd tells whether that is so.
func OnSystemd() bool { return os.Getenv(systemdVariable) != "" }

// Program builds kontiki-shim as it is in the source tree, once a test process, and returns its path.
func Program(t testing.TB) string {
	t.Helper()
	build(t)
	return programs.shim
}

// Probe builds the test containers' program (see probe/main.go) and returns its path.
func Probe(t testing.TB) string {
	t.Helper()
	build(t)
	return filepath.Join(programs.built, "probe")
}

func build(t testing.TB) {
	t.Helper()
	programs.Lock()
	defer programs.Unlock()
	if programs.shim == "" && programs.err == nil {
		programs.err = buildInto()
	}
	if programs.err != nil {
		t.Fatal(programs.err)
	}
}

func buildInto() error {
	if dir := os.Getenv(builtVariable); dir != "" {
		programs.shim, programs.built = filepath.Join(dir, "kontiki-shim"), dir
		return nil
	}
	// One folder for all runs, so that nothing is left that the next run does not use again.
	programs.dir = filepath.Join(os.TempDir(), "kontiki-shimtest-"+strconv.Itoa(os.Getpid()))
	if err := os.MkdirAll(programs.dir, 0o755); err != nil {
		return err
	}
	path := filepath.Join(programs.dir, "kontiki-shim")
	flags := append([]string{"-tags", "seccomp netgo osusergo", "-ldflags", "-linkmode external -extldflags -static"}, raceFlags...)
	if err := goBuild(path, "kontiki/cmd/kontiki-shim", "CGO_ENABLED=1", flags...); err != nil {
		return err
	}
	if err := goBuild(filepath.Join(programs.dir, "probe"), "kontiki/runtime/shim/shimtest/probe", "CGO_ENABLED=0", "-ldflags", "-s -w"); err != nil {
		return err
	}
	programs.shim, programs.built = path, programs.dir
	return nil
}

func goBuild(out, pkg, env string, flags ...string) error {
	cmd := exec.Command("go", append(append([]string{"build", "-o", out}, flags...), pkg)...)
	cmd.Env = append(os.Environ(), env)
	if b, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, b)
	}
	return nil
}

// Main is what TestMain of a package with Envs calls: it removes the programs after the run.
func Main(m *testing.M) {
	sweepStale()
	code := m.Run()
	if programs.dir != "" {
		os.RemoveAll(programs.dir)
	}
	os.Exit(code)
}

// Env is one shim with a folder and a cgroup root of its own.
type Env struct {
	T      testing.TB
	Dir    string
	Config shim.Config
	Client *shim.Client
}

var sequence struct {
	sync.Mutex
	n int
}

// New starts a shim for a test, and skips the test without root.
func New(t testing.TB) *Env {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	program := Program(t)
	sequence.Lock()
	sequence.n++
	name := fmt.Sprintf("%s%d-%d", prefix, os.Getpid(), sequence.n)
	sequence.Unlock()
	dir := filepath.Join(os.TempDir(), name) // short: a socket's path is limited
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	e := &Env{T: t, Dir: dir, Config: shim.Config{
		Dir: filepath.Join(dir, "run"), CgroupRoot: "/" + name, Program: program, Logger: slog.New(slog.NewTextHandler(testLog{t}, nil)),
	}}
	if OnSystemd() {
		e.Config.CgroupRoot = "/"
	}
	t.Cleanup(func() {
		b, _ := os.ReadFile(filepath.Join(e.Config.Dir, "shim.log"))
		if strings.Contains(string(b), "DATA RACE") || strings.Contains(string(b), "panic: ") {
			t.Error("the shim's log tells of a bug")
		}
		if t.Failed() {
			t.Logf("the shim's log:\n%s", b)
		}
		if e.Client != nil {
			e.Client.Close()
		}
		if err := sweep(name); err != nil {
			t.Errorf("cannot clean up: %v", err)
		}
	})
	e.Connect()
	return e
}

type testLog struct{ t testing.TB }

func (l testLog) Write(b []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// Context ends with the test or when patience does.
func (e *Env) Context() context.Context {
	ctx, cancel := context.WithTimeout(e.T.Context(), Patience)
	e.T.Cleanup(cancel)
	return ctx
}

// Connect makes e.Client, starting or adopting the shim.
func (e *Env) Connect() {
	e.T.Helper()
	c, err := shim.Start(e.Context(), e.Config)
	if err != nil {
		e.T.Fatal(err)
	}
	e.Client = c
}

// KillShim kills the shim as a crash would and waits until it is gone.
func (e *Env) KillShim() {
	e.T.Helper()
	info, err := e.Client.Info(e.Context())
	if err != nil {
		e.T.Fatal(err)
	}
	if err := unix.Kill(info.PID, unix.SIGKILL); err != nil {
		e.T.Fatal(err)
	}
	Eventually(e.T, fmt.Sprintf("shim %d to be gone", info.PID), func() bool { return !Alive(info.PID) })
}

// Alive tells whether a process runs; a zombie does not, once all its threads are gone: until then
// its files are open.
func Alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	i := strings.LastIndexByte(string(b), ')')
	if i < 0 || len(b) <= i+2 {
		return false
	}
	threads, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	return b[i+2] != 'Z' || len(threads) > 1
}

// Rootfs makes a root file system that holds /probe.
func (e *Env) Rootfs(name string) string {
	e.T.Helper()
	root := filepath.Join(e.Dir, "rootfs-"+name)
	for _, d := range []string{"", "proc", "sys", "dev", "tmp", "etc"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			e.T.Fatal(err)
		}
	}
	if err := os.Link(Probe(e.T), filepath.Join(root, "probe")); err != nil {
		e.T.Fatal(err)
	}
	return root
}

// Sandbox makes a sandbox with defaults.
func (e *Env) Sandbox(id string) shim.Sandbox {
	e.T.Helper()
	sb, err := e.Client.CreateSandbox(e.Context(), shim.SandboxSpec{ID: id, PodUID: "uid-" + id, QOS: shim.Burstable, Hostname: id})
	if err != nil {
		e.T.Fatal(err)
	}
	return sb
}

// Spec is a container that runs /probe with args.
func (e *Env) Spec(sandbox, id string, args ...string) shim.ContainerSpec {
	e.T.Helper()
	return shim.ContainerSpec{
		ID: id, SandboxID: sandbox, Args: append([]string{"/probe"}, args...), Env: []string{"PATH=/"}, Rootfs: e.Rootfs(id),
		Capabilities: shim.DefaultCapabilities(), MaskedPaths: shim.DefaultMaskedPaths(), ReadonlyPaths: shim.DefaultReadonlyPaths(),
	}
}

// Run creates and starts a container.
func (e *Env) Run(spec shim.ContainerSpec) shim.Container {
	e.T.Helper()
	if _, err := e.Client.Create(e.Context(), spec); err != nil {
		e.T.Fatal(err)
	}
	c, err := e.Client.Start(e.Context(), spec.ID)
	if err != nil {
		e.T.Fatal(err)
	}
	return c
}

// Wait waits for a container's exit.
func (e *Env) Wait(id string) shim.Exit {
	e.T.Helper()
	cursor := shim.Cursor{}
	for {
		exits, next, err := e.Client.Exits(e.Context(), cursor)
		if err != nil {
			e.T.Fatalf("wait for the exit of %s: %v", id, err)
		}
		if i := slices.IndexFunc(exits, func(x shim.Exit) bool { return x.ContainerID == id }); i >= 0 {
			return exits[i]
		}
		cursor = next
	}
}

// Output reads a FIFO to its end.
func (e *Env) Output(path string) string {
	e.T.Helper()
	f, err := shim.OpenOutput(path)
	if err != nil {
		e.T.Fatal(err)
	}
	defer f.Close()
	f.SetReadDeadline(time.Now().Add(Patience))
	b, err := io.ReadAll(f)
	if err != nil {
		e.T.Fatalf("read %s: %v (have %q)", path, err, b)
	}
	return string(b)
}

// Eventually waits until ok, with patience.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(Patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("waited %v for %s", Patience, what)
		}
	}
}
