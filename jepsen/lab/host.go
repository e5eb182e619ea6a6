package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
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

// Host is one virtual machine of a lab.
type Host struct {
	Name string
	Addr netip.Addr

	lab *Lab
}

// ErrNotRunning is returned for a host whose node process does not run.
var ErrNotRunning = errors.New("its node is not running; start it with: kontiki lab start")

func (h *Host) dir() string { return filepath.Join(h.lab.dir(), h.Name) }

// DataDir is the node's data directory.
func (h *Host) DataDir() string { return filepath.Join(h.dir(), "data") }

// LogPath is the file that the node's output goes to.
func (h *Host) LogPath() string { return filepath.Join(h.dir(), "node.log") }

// Kubeconfig is the path of the node's admin kubeconfig. It exists once the node
// belongs to a cluster.
func (h *Host) Kubeconfig() string { return filepath.Join(h.DataDir(), "admin.kubeconfig") }

func (h *Host) pidPath() string { return filepath.Join(h.dir(), "node.pid") }
func (h *Host) cgroup() string  { return h.lab.cgroup() + "/" + h.Name }

// CgroupRoot is the cgroup below which the host's node places pods.
func (h *Host) CgroupRoot() string { return "/" + h.cgroup() }

func (h *Host) create() error {
	if err := os.MkdirAll(h.DataDir(), 0o700); err != nil {
		return err
	}
	if err := h.makeNamespaces(); err != nil {
		return err
	}
	netns, err := os.Open(h.netnsPin())
	if err != nil {
		return err
	}
	defer netns.Close()
	if err := h.plug(int(netns.Fd())); err != nil {
		return err
	}
	if err := h.makeCgroup(); err != nil {
		return err
	}
	return h.applyFaults()
}

// Start starts the host's node. The node outlives the calling process.
func (h *Host) Start(extra ...string) error { return h.startNode(nil, h.lab.cfg.Binary, extra) }

// StartWith is Start by another program, which is given the node's command line behind
// its own arguments, stands for the node, and ends with it.
func (h *Host) StartWith(program []string, extra ...string) error {
	return h.startNode(program, h.lab.cfg.Binary, extra)
}

// StartAs is Start with another kontiki than the lab's, as of another version.
func (h *Host) StartAs(binary string, extra ...string) error { return h.startNode(nil, binary, extra) }

func (h *Host) startNode(program []string, binary string, extra []string) error {
	if pid, err := h.Pid(); err == nil {
		return fmt.Errorf("the node on %s runs already, as process %d", h.Name, pid)
	}
	log, err := os.OpenFile(h.LogPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	args := append([]string{
		"node",
		"--name", h.Name,
		"--data-dir", h.DataDir(),
		"--secret-file", h.lab.secretPath(),
		"--expect", strconv.Itoa(h.lab.expect),
		"--cgroup-root", h.CgroupRoot(),
	}, extra...)
	if !h.lab.cfg.Beacon {
		args = append(args, "--join", strings.Join(h.lab.hostNames(), ","))
	}
	line := slices.Concat(program, []string{binary}, args)
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := h.start(cmd, true); err != nil {
		return fmt.Errorf("start the node on %s: %w", h.Name, err)
	}
	defer cmd.Process.Release()
	return os.WriteFile(h.pidPath(), []byte(strconv.Itoa(cmd.Process.Pid)+"\n"), 0o644)
}

// goodbye is how long a command on a host has to end once it was told to.
const goodbye = 5 * time.Second

// Exec runs a command on the host with the given streams. When ctx ends, it is told to end
// (SIGTERM): it may have a terminal to leave as it was.
func (h *Host) Exec(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = h.environ()
	if path, err := lookPath(name, cmd.Env); err == nil {
		cmd.Path, cmd.Err = path, nil
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = goodbye
	if err := h.start(cmd, false); err != nil {
		return err
	}
	return cmd.Wait()
}

// start starts cmd in the host's namespaces and cgroup; detached, in a session
// of its own.
func (h *Host) start(cmd *exec.Cmd, detached bool) error {
	cgroup, err := h.openCgroup()
	if err != nil {
		return err
	}
	defer cgroup.Close()
	if cmd.Env == nil {
		cmd.Env = h.environ()
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(cgroup.Fd()), Setsid: detached}
	return h.inside(cmd.Start)
}

// environ puts kontiki on the PATH and lets it find the host's data directory.
func (h *Host) environ() []string {
	var env []string
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); name != "PATH" && name != "KUBECONFIG" && !strings.HasPrefix(name, "KONTIKI_") {
			env = append(env, kv)
		}
	}
	return append(env,
		"PATH="+filepath.Dir(h.lab.cfg.Binary)+":"+os.Getenv("PATH"),
		"KONTIKI_DATA_DIR="+h.DataDir())
}

func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, kv := range env {
		if list, ok := strings.CutPrefix(kv, "PATH="); ok {
			for _, dir := range filepath.SplitList(list) {
				if path := filepath.Join(dir, name); unix.Access(path, unix.X_OK) == nil {
					return path, nil
				}
			}
		}
	}
	return "", exec.ErrNotFound
}

// Pid is the process id of the running node. It is checked against the host's
// cgroup, since process ids get reused. A node of which any thread is left runs: what
// was killed is gone, and its files are closed, with the last of its threads.
func (h *Host) Pid() (int, error) {
	pid, err := h.lastPid()
	if err != nil {
		return 0, err
	}
	threads, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	for _, thread := range threads {
		of := fmt.Sprintf("/proc/%d/task/%s/", pid, thread.Name())
		member, err := os.ReadFile(of + "cgroup")
		stat, serr := os.ReadFile(of + "stat")
		if err == nil && serr == nil && strings.Contains(string(member), h.cgroup()+"/") && !strings.Contains(string(stat), ") Z ") {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("%s: %w", h.Name, ErrNotRunning)
}

// lastPid is the process id that the node was started with.
func (h *Host) lastPid() (int, error) {
	data, err := os.ReadFile(h.pidPath())
	if errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("%s: %w", h.Name, ErrNotRunning)
	}
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return 0, fmt.Errorf("%s: %w", h.pidPath(), err)
	}
	return pid, nil
}

// Signal sends sig to the node process, and for one that ends it waits until it is gone.
func (h *Host) Signal(ctx context.Context, sig syscall.Signal) error {
	pid, err := h.Pid()
	if err != nil {
		return err
	}
	if err := unix.Kill(pid, sig); err != nil {
		return fmt.Errorf("signal the node on %s: %w", h.Name, err)
	}
	if sig != unix.SIGKILL && sig != unix.SIGTERM && sig != unix.SIGINT {
		return nil
	}
	for {
		reap(pid)
		if _, err := h.Pid(); errors.Is(err, ErrNotRunning) {
			return nil
		}
		if err := pause(ctx, "the node on "+h.Name+" to end"); err != nil {
			return err
		}
	}
}

// reap collects the exit of a child, where this process started the node itself.
func reap(pid int) {
	var status unix.WaitStatus
	unix.Wait4(pid, &status, unix.WNOHANG, nil)
}

// Status is what the node on the host says of itself, in JSON.
func (h *Host) Status(ctx context.Context) (json.RawMessage, error) {
	socket := filepath.Join(h.DataDir(), "run", "kontiki.sock")
	client := http.Client{
		Timeout: 5 * time.Second,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "unix", socket)
			},
		},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://node/status", nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the node on %s for its status: %w", h.Name, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the node on %s answers %s: %s", h.Name, resp.Status, strings.TrimSpace(string(body)))
	}
	return body, nil
}
