package shim_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kontiki/runtime/shim"
	"kontiki/runtime/shim/shimtest"
)

func itoa(n int) string { return strconv.Itoa(n) }

func withTimeout(e *shimtest.Env, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(e.T.Context(), d)
}

func TestKilledShimIsReplacedAndAdopts(t *testing.T) {
	e := shimtest.New(t)
	e.Sandbox("a")
	term := e.Run(e.Spec("a", "term", "term"))
	waitForLine(t, term.IO.Stdout, "ready")
	ticking := e.Run(e.Spec("a", "tick", "tick"))
	waitForLine(t, ticking.IO.Stdout, "tick 0")
	created := e.Spec("a", "created", "exit", "11")
	if _, err := e.Client.Create(e.Context(), created); err != nil {
		t.Fatal(err)
	}
	done := e.Run(e.Spec("a", "done", "exit", "3"))
	e.Wait("done")
	before, err := e.Client.Info(e.Context())
	if err != nil {
		t.Fatal(err)
	}

	e.KillShim()

	list, err := e.Client.List(e.Context()) // starts another
	if err != nil {
		t.Fatal(err)
	}
	status := map[string]shim.Status{}
	for _, c := range list {
		status[c.ID] = c.Status
	}
	if status["term"] != shim.Running || status["tick"] != shim.Running || status["created"] != shim.Created || status["done"] != shim.Exited {
		t.Fatalf("adopted: %v", status)
	}
	after, err := e.Client.Info(e.Context())
	if err != nil || after.PID == before.PID || after.Instance == before.Instance {
		t.Fatalf("%+v, then %+v, %v", before, after, err)
	}
	// The exit of before is told again, since nobody acknowledged it.
	if exit := e.Wait("done"); exit.Code != 3 || exit.Unknown {
		t.Errorf("done (%s): %+v", done.ID, exit)
	}
	waitForLine(t, ticking.IO.Stdout, "tick 5") // neither SIGPIPE nor a full pipe
	// Not our child any more, and still its code is known.
	if err := e.Client.Signal(e.Context(), "term", unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if exit := e.Wait("term"); exit.Code != 7 || exit.Unknown {
		t.Errorf("term: %+v", exit)
	}
	if _, err := e.Client.Start(e.Context(), "created"); err != nil {
		t.Fatal(err)
	}
	if exit := e.Wait("created"); exit.Code != 11 {
		t.Errorf("created: %+v", exit)
	}
	exit, output, err := e.Client.ExecSync(e.Context(), "tick", shim.ExecSpec{Args: []string{"/probe", "say", "x"}}, 100)
	if err != nil || exit.Code != 0 || len(output) == 0 {
		t.Errorf("exec in an adopted container: %+v, %q, %v", exit, output, err)
	}
	if err := e.Client.Update(e.Context(), "tick", shim.Resources{Pids: 30}); err != nil {
		t.Errorf("update of an adopted container: %v", err)
	}
	if err := e.Client.RemoveSandbox(e.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if shimtest.Alive(ticking.PID) {
		t.Error("tick lives after its removal")
	}
	if m := shimtest.MountsBelow(e.Dir); len(m) != 0 {
		t.Errorf("left mounts: %v", m)
	}
}

// TestAContainerOfANewerShim is watched, stopped and removed by an older one; nothing is started in it.
func TestAContainerOfANewerShim(t *testing.T) {
	e := shimtest.New(t)
	e.Sandbox("a")
	c := e.Run(e.Spec("a", "c1", "term"))
	waitForLine(t, c.IO.Stdout, "ready")
	e.KillShim()
	rewrite(t, filepath.Join(e.Config.Dir, "containers", "c1", "container.json"), func(rec map[string]any) {
		rec["format"] = rec["format"].(float64) + 1
	})
	_, _, err := e.Client.ExecSync(e.Context(), "c1", shim.ExecSpec{Args: []string{"/probe", "exit", "0"}}, 100)
	if !errors.Is(err, shim.ErrNewer) || !strings.Contains(err.Error(), "made by a newer kontiki-shim") {
		t.Errorf("exec: %v", err)
	}
	if err := e.Client.Signal(e.Context(), "c1", unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if exit := e.Wait("c1"); exit.Code != 7 || exit.Unknown {
		t.Errorf("%+v", exit)
	}
	if err := e.Client.RemoveSandbox(e.Context(), "a"); err != nil {
		t.Fatal(err)
	}
}

func TestExitThatNobodySawIsUnknown(t *testing.T) {
	e := shimtest.New(t)
	e.Sandbox("a")
	c := e.Run(e.Spec("a", "c1", "run"))
	e.KillShim()
	if err := unix.Kill(c.PID, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(c.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	shimtest.Eventually(t, "the container's process to be reaped by init", func() bool {
		return errors.Is(unix.Kill(c.PID, 0), unix.ESRCH)
	})
	if exit := e.Wait("c1"); !exit.Unknown || exit.Code != 137 {
		t.Fatalf("%+v", exit)
	}
}

// TestKilledAtRandom kills the shim while it creates and starts; whatever it had
// promised must be there, and nothing else.
func TestKilledWhileItCreates(t *testing.T) {
	e := shimtest.New(t)
	e.Sandbox("a")
	for i := range 10 {
		spec := e.Spec("a", "c"+itoa(i), "exit", "4")
		info, err := e.Client.Info(e.Context())
		if err != nil {
			t.Fatal(err)
		}
		delay := time.Duration(i) * 3 * time.Millisecond
		timer := time.AfterFunc(delay, func() { unix.Kill(info.PID, unix.SIGKILL) })
		e.Run(spec) // repeats by itself
		timer.Stop()
		if exit := e.Wait(spec.ID); exit.Code != 4 && !exit.Unknown {
			t.Errorf("killed after %v: %+v", delay, exit)
		}
		if err := e.Client.Delete(e.Context(), spec.ID); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Client.RemoveSandbox(e.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"sandboxes", "containers", "exits", "state"} {
		if left, err := os.ReadDir(e.Config.Dir + "/" + d); err != nil || len(left) != 0 {
			t.Errorf("left in %s: %v, %v", d, left, err)
		}
	}
}

func TestUpgradeInPlace(t *testing.T) {
	e := shimtest.New(t)
	e.Sandbox("a")
	c := e.Run(e.Spec("a", "c1", "term"))
	waitForLine(t, c.IO.Stdout, "ready")
	tty := e.Spec("a", "tty", "lines")
	tty.Tty = true
	e.Run(tty)
	before, err := e.Client.Info(e.Context())
	if err != nil {
		t.Fatal(err)
	}
	// Another build: the same program with a few bytes behind it.
	next := e.Dir + "/next-shim"
	b, err := os.ReadFile(e.Config.Program)
	if err == nil {
		err = os.WriteFile(next, append(b, "another build"...), 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	waiting := make(chan error, 1)
	ctx, old := e.Context(), e.Client
	go func() { // a call that only waits must live through it
		exits, _, err := old.Exits(ctx, shim.Cursor{})
		if err == nil && (len(exits) != 1 || exits[0].Code != 7 || exits[0].Unknown) {
			err = errors.New("wrong exits")
		}
		waiting <- err
	}()
	e.Config.Program = next
	e.Connect()
	after, err := e.Client.Info(e.Context())
	if err != nil || after.PID != before.PID || after.Hash == before.Hash {
		t.Fatalf("%+v, then %+v, %v", before, after, err)
	}
	sealed(t, e)
	if err := e.Client.Signal(e.Context(), "c1", unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if exit := e.Wait("c1"); exit.Code != 7 || exit.Unknown {
		t.Fatalf("%+v", exit)
	}
	if err := <-waiting; err != nil {
		t.Errorf("the call that waited: %v", err)
	}
	console, err := e.Client.Console(e.Context(), "tty")
	if err != nil {
		t.Fatal(err)
	}
	defer console.Close()
	io.WriteString(console, "still here\n")
	readUntil(t, console, "got still here")
	old.Close()
}

// clientVariable makes this test's program a client that starts a shim and a
// container and waits to be killed.
const clientVariable = "KONTIKI_SHIMTEST_CLIENT"

type clientTask struct {
	Dir, CgroupRoot, Program string
	Spec                     shim.ContainerSpec
}

func beClient(text string) error {
	var task clientTask
	if err := json.Unmarshal([]byte(text), &task); err != nil {
		return err
	}
	ctx := context.Background()
	c, err := shim.Start(ctx, shim.Config{Dir: task.Dir, CgroupRoot: task.CgroupRoot, Program: task.Program})
	if err != nil {
		return err
	}
	if _, err := c.CreateSandbox(ctx, shim.SandboxSpec{ID: "a", PodUID: "a", QOS: shim.Guaranteed}); err != nil {
		return err
	}
	if _, err := c.Create(ctx, task.Spec); err != nil {
		return err
	}
	if _, err := c.Start(ctx, task.Spec.ID); err != nil {
		return err
	}
	os.Stdout.WriteString("started\n")
	select {}
}

func TestKilledClientLeavesAllRunning(t *testing.T) {
	e := shimtest.New(t)
	// The shim of New is this process's; the one to test is the other's.
	if err := e.Client.Shutdown(e.Context()); err != nil {
		t.Fatal(err)
	}
	spec := e.Spec("a", "c1", "tick")
	task, err := json.Marshal(clientTask{e.Config.Dir, e.Config.CgroupRoot, e.Config.Program, spec})
	if err != nil {
		t.Fatal(err)
	}
	client := exec.CommandContext(e.Context(), "/proc/self/exe")
	client.Env = append(os.Environ(), clientVariable+"="+string(task))
	out, err := client.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	client.Stderr = os.Stderr
	if err := client.Start(); err != nil {
		t.Fatal(err)
	}
	readUntil(t, out.(*os.File), "started")
	client.Process.Kill()
	client.Wait()

	c, err := e.Client.State(e.Context(), "c1")
	if err != nil || c.Status != shim.Running || !shimtest.Alive(c.PID) {
		t.Fatalf("%+v, %v", c, err)
	}
	waitForLine(t, c.IO.Stdout, "tick 1")
	if err := e.Client.Signal(e.Context(), "c1", unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if exit := e.Wait("c1"); exit.Code != 137 || exit.Unknown {
		t.Fatalf("%+v", exit)
	}
}

// TestKilledInTheMiddleOfAStart plays the shim that is killed in the two moments that matter.
func TestKilledInTheMiddleOfAStart(t *testing.T) {
	e := shimtest.New(t)
	e.Sandbox("a")
	for _, tc := range []struct {
		id   string
		read bool // killed after it had read the byte of the init stage, else before
	}{{"after", true}, {"before", false}} {
		if _, err := e.Client.Create(e.Context(), e.Spec("a", tc.id, "sleep-then", "300", "11")); err != nil {
			t.Fatal(err)
		}
		e.KillShim()
		f, err := os.OpenFile(e.Config.Dir+"/state/"+tc.id+"/exec.fifo", os.O_RDONLY, 0)
		if err == nil && tc.read {
			_, err = f.Read(make([]byte, 1))
		}
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		c, err := e.Client.Start(e.Context(), tc.id)
		if err != nil {
			t.Fatal(err)
		}
		if tc.read && c.Status == shim.Created {
			t.Errorf("%s: it runs, and is %s", tc.id, c.Status)
		}
		// Before: the byte may have been written all the same.
		if exit := e.Wait(tc.id); exit.Code != 11 && (tc.read || !exit.Unknown) {
			t.Errorf("%s: %+v", tc.id, exit)
		}
	}
}

// TestSecretsStayOffTheDisk: neither a container's environment nor its arguments are in what a
// shim writes down, nor in what it finds of one before it that did; and who asks again for a container of
// which they are not known any more gets that container.
func TestSecretsStayOffTheDisk(t *testing.T) {
	const secret = "correct-horse-battery"
	e := shimtest.New(t)
	e.Sandbox("a")
	spec := e.Spec("a", "c1", "tick")
	spec.Env = append(spec.Env, "PASSWORD="+secret)
	spec.Args = append(spec.Args, "--password="+secret)
	c := e.Run(spec)
	waitForLine(t, c.IO.Stdout, "tick 1")
	in, keepsItWaiting, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer keepsItWaiting.Close()
	_, _, err = e.Client.Exec(e.Context(), "c1", shim.ExecSpec{ID: "e1", Args: []string{"/probe", "cat", secret}, Env: spec.Env}, shim.Stdio{Stdin: in})
	in.Close()
	if err != nil {
		t.Fatal(err)
	}
	told := func(when string) {
		t.Helper()
		err := filepath.WalkDir(e.Config.Dir, func(path string, d os.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || filepath.Ext(path) == "" { // namespaces are files, too
				return err
			}
			if b, err := os.ReadFile(path); err != nil || strings.Contains(string(b), secret) {
				t.Errorf("%s: %s holds a secret (%v)", when, path, err)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	told("written")
	other := spec
	other.Env = []string{"PASSWORD=other"}
	if _, err := e.Client.Create(e.Context(), other); !errors.Is(err, shim.ErrConflict) {
		t.Errorf("another environment: %v", err)
	}

	e.KillShim()
	for file, with := range map[string]map[string]any{"container.json": {"args": spec.Args, "env": spec.Env}, "execs/e1.json": {"env": spec.Env}} {
		rewrite(t, filepath.Join(e.Config.Dir, "containers", "c1", file), func(rec map[string]any) {
			inner, _ := rec["spec"].(map[string]any)
			if inner == nil {
				inner = map[string]any{}
			}
			maps.Copy(inner, with)
			rec["spec"] = inner
		})
	}
	again, err := e.Client.Create(e.Context(), spec)
	if err != nil || again.PID != c.PID {
		t.Errorf("asked for again: %+v, %v", again, err)
	}
	told("adopted")
	other = spec
	other.Rootfs += "/other"
	if _, err := e.Client.Create(e.Context(), other); !errors.Is(err, shim.ErrConflict) {
		t.Errorf("another root: %v", err)
	}
	if err := e.Client.RemoveSandbox(e.Context(), "a"); err != nil {
		t.Fatal(err)
	}
}

// rewrite changes a record in JSON, as another version of the shim would have written it.
func rewrite(t *testing.T, path string, change func(rec map[string]any)) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rec := map[string]any{}
	if err := json.Unmarshal(b, &rec); err != nil {
		t.Fatal(err)
	}
	change(rec)
	if b, err = json.Marshal(rec); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
