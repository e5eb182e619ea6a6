package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Engine runs containers, by commands as a user types them. Containers have no network but loopback,
// and all engines run Debian's runc.
type Engine struct {
	Name string

	dir    string   // all that it keeps
	extra  []string // directories that its programs make elsewhere, and that were not there before
	client []string // program and options of every command
	env    []string
	image  string // as the engine names it
	daemon *Process
	run    []string // what starts a container: its options, before image and name
	verbs  verbs
}

// verbs are an engine's words for the same.
type verbs struct {
	named                bool // run wants --name before the image, and no name after it
	kill, list, exec     []string
	load, images, remove []string
}

// engineCgroup is the parent of the engines' containers.
const engineCgroup = "kontiki-bench"

// Containerd starts Debian's containerd, with the image of an OCI archive.
func Containerd(ctx context.Context, archive string) (*Engine, error) {
	if err := install(ctx, "containerd", "containerd", "runc"); err != nil {
		return nil, err
	}
	e, err := newEngine("containerd, ctr")
	if err != nil {
		return nil, err
	}
	config, socket := filepath.Join(e.dir, "config.toml"), filepath.Join(e.dir, "sock")
	// The plugin for Kubernetes is not asked; it would only take memory.
	err = os.WriteFile(config, []byte("version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n"), 0o600)
	if err == nil {
		e.daemon, err = Start(filepath.Join(e.dir, "log"), "containerd", "--config", config, "--log-level", "error",
			"--root", filepath.Join(e.dir, "root"), "--state", filepath.Join(e.dir, "state"), "--address", socket)
	}
	if err != nil {
		return nil, errors.Join(err, e.Close())
	}
	e.client = []string{"ctr", "--address", socket, "--namespace", engineCgroup}
	e.run = []string{"run", "--detach"}
	e.verbs = verbs{
		kill: []string{"task", "delete", "--force"}, remove: []string{"container", "delete"}, list: []string{"container", "list", "--quiet"},
		exec: []string{"task", "exec", "--exec-id"}, load: []string{"image", "import"}, images: []string{"image", "list", "--quiet"},
	}
	err = Wait(ctx, "containerd to answer", func() (bool, error) {
		_, err := e.command(ctx, "version")
		return err == nil, nil
	})
	if err == nil {
		err = e.loadImage(ctx, archive)
	}
	if err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// Podman prepares Debian's podman, with the image of an OCI archive.
func Podman(ctx context.Context, archive string) (*Engine, error) {
	if err := install(ctx, "podman", "podman", "runc"); err != nil {
		return nil, err
	}
	e, err := newEngine("podman")
	if err != nil {
		return nil, err
	}
	policy, config := filepath.Join(e.dir, "policy.json"), filepath.Join(e.dir, "containers.conf")
	err = errors.Join(os.WriteFile(policy, []byte(`{"default":[{"type":"insecureAcceptAnything"}]}`), 0o600),
		// Locks in files: those in /dev/shm would be shared with the machine's own podman.
		os.WriteFile(config, []byte("[engine]\nlock_type = \"file\"\n"), 0o600))
	if err != nil {
		return nil, errors.Join(err, e.Close())
	}
	e.env = []string{"CONTAINERS_CONF=" + config}
	e.client = []string{"podman", "--root", filepath.Join(e.dir, "root"), "--runroot", filepath.Join(e.dir, "run"), "--tmpdir", filepath.Join(e.dir, "tmp"),
		"--runtime", "runc", "--cgroup-manager", "cgroupfs", "--events-backend", "file", "--storage-driver", "overlay"}
	e.run = []string{"run", "--detach", "--network", "none", "--cgroup-parent", "/" + engineCgroup, "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"}
	e.verbs = verbs{
		named: true, remove: []string{"rm", "--force", "--time", "0"}, list: []string{"ps", "--all", "--quiet"},
		exec: []string{"exec"}, load: []string{"load", "--signature-policy", policy, "--input"}, images: []string{"images", "--quiet", "--no-trunc"},
	}
	if err := e.loadImage(ctx, archive); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// newEngine makes a directory that is a mount of its own: whatever is mounted below goes with it.
func newEngine(name string) (*Engine, error) {
	dir, err := os.MkdirTemp("", "kontiki-bench-")
	if err != nil {
		return nil, err
	}
	e := &Engine{Name: name, dir: dir}
	for _, d := range []string{"/run/containerd", "/run/runc", "/run/libpod", "/run/containers"} {
		if _, err := os.Stat(d); errors.Is(err, fs.ErrNotExist) {
			e.extra = append(e.extra, d)
		}
	}
	err = unix.Mount(dir, dir, "", unix.MS_BIND, "")
	if err == nil {
		err = unix.Mount("", dir, "", unix.MS_PRIVATE, "")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("mount %s: %w", dir, err), e.Close())
	}
	return e, nil
}

// command runs one; it is not in the terminal's process group, since an interrupt is for the bench. One
// that has begun runs to its end: half a container is nobody's to remove.
func (e *Engine) command(ctx context.Context, args ...string) (string, error) {
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), Patience)
	defer cancel()
	all := append(append([]string{}, e.client...), args...)
	cmd := exec.CommandContext(ctx, all[0], all[1:]...)
	cmd.Env = append(os.Environ(), e.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var out, bad bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &bad
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s%s", strings.Join(all, " "), err, out.String(), bad.String())
	}
	return out.String(), nil
}

func (e *Engine) loadImage(ctx context.Context, archive string) error {
	if _, err := e.command(ctx, append(e.verbs.load, archive)...); err != nil {
		return err
	}
	out, err := e.command(ctx, e.verbs.images...)
	if err != nil {
		return err
	}
	names := strings.Fields(out)
	if len(names) == 0 {
		return fmt.Errorf("%s has no image after it loaded %s", e.Name, archive)
	}
	e.image = names[0]
	return nil
}

// Run starts a container, and returns when its program runs.
func (e *Engine) Run(ctx context.Context, name string) error {
	args := append([]string{}, e.run...)
	if e.verbs.named {
		args = append(args, "--name", name, e.image)
	} else {
		args = append(args, e.image, name)
	}
	_, err := e.command(ctx, args...)
	return err
}

// Exec runs a program in a container, and waits for its end.
func (e *Engine) Exec(ctx context.Context, name string, args ...string) error {
	all := append([]string{}, e.verbs.exec...)
	if !e.verbs.named {
		all = append(all, fmt.Sprintf("exec-%d", time.Now().UnixNano()))
	}
	_, err := e.command(ctx, append(append(all, name), args...)...)
	return err
}

// Nothing starts the engine's client, and has it do nothing.
func (e *Engine) Nothing(ctx context.Context) error {
	_, err := e.command(ctx, "--version")
	return err
}

// Remove ends a container and removes it.
func (e *Engine) Remove(ctx context.Context, name string) error {
	if e.verbs.kill != nil {
		if _, err := e.command(ctx, append(e.verbs.kill, name)...); err != nil {
			return err
		}
	}
	_, err := e.command(ctx, append(e.verbs.remove, name)...)
	return err
}

// Own are the engine's processes, without those in its containers: they name its directory.
func (e *Engine) Own() (pids []int, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		line, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		if err == nil && bytes.Contains(line, []byte(e.dir)) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// Close removes all containers and everything else that the engine has made.
func (e *Engine) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	var errs []error
	if e.client != nil {
		out, err := e.command(ctx, e.verbs.list...)
		errs = append(errs, err)
		for _, name := range strings.Fields(out) {
			errs = append(errs, e.Remove(ctx, name))
		}
	}
	if e.daemon != nil {
		e.daemon.Kill()
	}
	errs = append(errs, e.endAll(ctx))
	if err := unix.Unmount(e.dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
		errs = append(errs, fmt.Errorf("unmount %s: %w", e.dir, err))
	}
	errs = append(errs, os.RemoveAll(e.dir), removeCgroups())
	for _, d := range e.extra {
		errs = append(errs, removeFolders(d))
	}
	return errors.Join(errs...)
}

// endAll ends what commands that failed have left behind, in containers and beside them.
func (e *Engine) endAll(ctx context.Context) error {
	return Wait(ctx, "the processes of "+e.Name+" to end", func() (bool, error) {
		own, err := e.Own()
		if err != nil {
			return false, err
		}
		v1, _ := filepath.Glob("/sys/fs/cgroup/*/" + engineCgroup + "/*/cgroup.procs")
		v2, _ := filepath.Glob("/sys/fs/cgroup/" + engineCgroup + "/*/cgroup.procs")
		for _, list := range append(v1, v2...) {
			text, _ := os.ReadFile(list) // gone meanwhile
			for field := range strings.FieldsSeq(string(text)) {
				if pid, err := strconv.Atoi(field); err == nil {
					own = append(own, pid)
				}
			}
		}
		for _, pid := range own {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return false, fmt.Errorf("end process %d: %w", pid, err)
			}
		}
		return len(own) == 0, nil
	})
}

// removeCgroups removes what engines leave empty, and tells of processes in it.
func removeCgroups() error {
	roots, err := filepath.Glob("/sys/fs/cgroup/*/" + engineCgroup)
	errs := []error{err}
	for _, root := range append(roots, "/sys/fs/cgroup/"+engineCgroup) {
		errs = append(errs, removeFolders(root))
	}
	return errors.Join(errs...)
}

// removeFolders removes a tree of empty directories; what is in them is an error, and stays.
func removeFolders(root string) error {
	var dirs []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	errs := []error{err}
	for _, dir := range slices.Backward(dirs) { // the innermost first
		if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
